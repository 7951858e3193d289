import { isId, REMEDIES, type RemedyName, type TorporError } from '@torpor/sdk/basics';

/** The remedies of the API as commands. `id` is the sandbox that the error is about. */
const COMMANDS: Readonly<Record<RemedyName, (id: string) => string>> = {
  listSandboxes: () => '`torpor ls` lists the sandboxes.',
  createSandbox: () => 'Create a new one with `torpor create`.',
  resume: (id) => `Resume it with \`torpor resume ${id}\`.`,
  resumeFromBuild: (id) => `Resume it from its last build with \`torpor resume ${id}\`.`,
  readConsole: (id) =>
    `Read the console with \`torpor logs ${id}\`: it has the messages of the sandbox's kernel.`,
  readConsoleThenDestroy: (id) =>
    `Read its console with \`torpor logs ${id}\`, and destroy it with \`torpor rm ${id}\`.`,
  destroy: (id) => `Destroy it with \`torpor rm ${id}\`.`,
  readConsoleOrDestroy: (id) =>
    `Read the console with \`torpor logs ${id}\`; destroy the sandbox with \`torpor rm ${id}\` if it does not recover.`,
  readConsoleOrCheckHost: (id) =>
    `Read the console with \`torpor logs ${id}\`; \`torpor doctor\` on the host checks that machine.`,
  startItsHost: (id) =>
    `Start the agent of its host (\`torpor agent\` there), or wait: it comes back with its host. \`torpor rm ${id}\` destroys it; the host carries that out when it is back.`,
  retryInOtherState: (id) =>
    `Look at the sandbox with \`torpor info ${id}\`, and retry when its state allows the operation.`,
  lookAndRetry: (id) => `Look at the sandbox with \`torpor info ${id}\`, and try again.`,
  killPrograms: (id) =>
    `Kill programs in the sandbox, for example as root with \`torpor exec --user root ${id} -- pkill -KILL -u user\`, or create one with more memory.`,
  sendAsFile: () => 'Copy large content into the sandbox with `torpor cp`.',
  listProcesses: () => '`torpor ps <id>` lists the programs that run in the sandbox.',
  listTemplates: () => '`torpor templates` lists the snapshots and images.',
  listOrMakeTemplates: () =>
    '`torpor templates` lists the snapshots and images; `torpor snapshot`, and `torpor image build` on the host, add others.',
  replaceSnapshot: () => 'Choose another name, or replace that snapshot with --overwrite.',
  verifyBuilds: () =>
    'Run `torpor builds verify`: it names every damaged build. Sandboxes and snapshots that need one cannot be resumed; delete them.',
};

/** What to do about an error: as commands, where the API says it for every client. */
export function commandLineRemedy({ message, remedy }: TorporError): string {
  const name = Object.keys(COMMANDS).find(isRemedyName(remedy));
  if (name === undefined) return remedy;
  const id = message.split(/\W+/).find((word) => isId('sandbox', word)) ?? '<id>';
  return COMMANDS[name](id);
}

function isRemedyName(remedy: string): (name: string) => name is RemedyName {
  return (name): name is RemedyName =>
    Object.hasOwn(REMEDIES, name) && REMEDIES[name as RemedyName] === remedy;
}
