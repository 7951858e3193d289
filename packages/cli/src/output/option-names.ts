import type { TorporError } from '@torpor/sdk/basics';

/** Options of the SDK, and the command-line options for them. */
const OPTION_NAMES: Readonly<Record<string, string>> = {
  template: '--template',
  vcpus: '--vcpus',
  memoryMiB: '--memory',
  diskSizeMiB: '--disk',
  idleTimeoutMs: '--idle-timeout',
  autoPause: '--auto-pause',
  metadata: '--label',
  envs: '--env',
  allowInternet: '--no-internet',
  hostTags: '--host-tag',
  cmd: 'the program',
  args: 'the arguments',
  cwd: '--cwd',
  user: '--user',
  timeoutMs: '--timeout',
  stdin: '--no-stdin',
  tag: '--tag',
  background: '--detach',
  size: 'the size of the terminal',
  count: '--count',
  name: 'the name',
  defaultUser: '--default-user',
  defaultEnv: '--default-env',
  overwrite: '--overwrite',
  states: '--state',
  type: '--type',
  maxBytes: '--bytes',
  path: 'the path',
  sandboxId: 'the sandbox',
  email: 'the email address',
  password: 'the password',
  newPassword: 'the new password',
  selector: 'the process',
  after: '--after',
  resourceId: '--resource',
  scopes: '--scopes',
  expiresAt: '--expires',
  eventTypes: '--events',
  url: 'the url',
};

/**
 * The message of an error. If it is about options of the SDK, it names those of the command
 * line: `--memory must be 128 to 2048 MiB on this host`.
 */
export function commandLineMessage({ message, issues }: TorporError): string {
  if (issues.length === 0) return message;
  const sentences = issues.map(({ field, problem }) => {
    const name = optionName(field);
    return `${name}${name === '' ? '' : ' '}${problem}`;
  });
  const text = sentences.join('; ');
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

/** The command-line option for an option of the SDK; `args.3` is the fourth argument. */
export function optionName(field: string): string {
  const [first = '', ...rest] = field.split('.');
  if (first === 'args' && /^\d+$/.test(rest[0] ?? '')) return `argument ${Number(rest[0]) + 1}`;
  const name = Object.hasOwn(OPTION_NAMES, first) ? (OPTION_NAMES[first] ?? first) : first;
  return first === 'size' ? name : [name, ...rest].join(' ');
}
