/**
 * What a reader can do about an error, in a form that is true for every client of the API. A
 * client with names of its own, such as the commands of the CLI, recognises a remedy by its
 * sentence and says its own; what it does not know it prints as it is. Commands that the
 * operator runs on the host (`torpor doctor`) are the same for everyone.
 */
export const REMEDIES = {
  listSandboxes: 'List the sandboxes to see which exist.',
  createSandbox: 'Create a new one.',
  resume: 'Resume it.',
  resumeFromBuild: 'Resume it from its last build.',
  readConsole: 'Read the console of the sandbox, which has the messages of its kernel.',
  readConsoleThenDestroy: 'Read its console, and destroy it.',
  destroy: 'Destroy it.',
  readConsoleOrDestroy: 'Read the console of the sandbox; destroy it if it does not recover.',
  readConsoleOrCheckHost:
    'Read the console of the sandbox; `torpor doctor` on the host checks that machine.',
  startItsHost:
    'Start the agent of its host, or wait: it comes back with its host. It can be destroyed meanwhile; the host carries that out when it is back.',
  retryInOtherState: 'Look at the state of the sandbox, and retry when it allows the operation.',
  lookAndRetry: 'Look at the state of the sandbox, and try again.',
  killPrograms:
    'Kill programs in the sandbox, for example with `pkill -KILL -u user` as root, or create one with more memory.',
  sendAsFile: 'Write large content to a file of the sandbox.',
  listProcesses: 'List the processes of the sandbox to see which run.',
  listTemplates: 'List the snapshots and images to see which exist.',
  listOrMakeTemplates:
    'List the snapshots and images to see which exist. To add one, take a snapshot of a sandbox, or run `torpor image build` on the host.',
  replaceSnapshot: 'Choose another name, or set overwrite to replace that snapshot.',
  verifyBuilds:
    'Verify the builds of the host: the report names every damaged one. Sandboxes and snapshots that need one cannot be resumed; delete them.',
} as const;

export type RemedyName = keyof typeof REMEDIES;
