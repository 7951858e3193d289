import { readdir, writeFile } from 'node:fs/promises';
import { type CommandOptions, runCommand } from './command.ts';
import { ignoreMissing } from './ignore-missing.ts';

/** Where iproute2 binds named network namespaces (ip-netns(8)). */
export const NETNS_DIRECTORY = '/run/netns';

const TOOL_TIMEOUT_MS = 30_000;

export interface NamespaceOptions {
  /** Name of a network namespace (ip-netns(8)); the caller's own if it is omitted. */
  readonly namespace?: string | undefined;
}

/**
 * Returns `name` if it can name a network namespace: 1 to 64 characters of
 * `[A-Za-z0-9_-]`, so that it is neither a path nor an option. Throws RangeError.
 */
export function checkedNamespaceName(name: string): string {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$/.test(name)) {
    throw new RangeError(`${JSON.stringify(name)} is not the name of a network namespace.`);
  }
  return name;
}

/**
 * Runs a program in a network namespace. It enters with nsenter(1) and not with
 * `ip netns exec`, because the latter also makes a private mount namespace: what
 * the program mounts, new named namespaces among it, would be lost with it.
 * Throws CommandError.
 */
export function runInNamespace(
  namespace: string | undefined,
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<string> {
  // What is half done when we are interrupted is finished, and then torn down in order.
  const bounded = { timeoutMs: TOOL_TIMEOUT_MS, ownSession: true, ...options };
  if (namespace === undefined) return runCommand(program, args, bounded);
  const path = `${NETNS_DIRECTORY}/${checkedNamespaceName(namespace)}`;
  return runCommand('nsenter', [`--net=${path}`, '--', program, ...args], bounded);
}

/** The names of all named network namespaces. */
export async function listNamespaces(): Promise<string[]> {
  return (await readdir(NETNS_DIRECTORY).catch(ignoreMissing)) ?? [];
}

/** A network setting below /proc/sys/net, such as `ipv4/ip_forward`. */
function sysctlPath(key: string): string {
  if (!/^[a-z0-9_]+(?:\/[A-Za-z0-9_-]+)+$/.test(key)) {
    throw new RangeError(`${JSON.stringify(key)} is not a network sysctl.`);
  }
  return `/proc/sys/net/${key}`;
}

// The paths and values are positional parameters: nothing is spliced into the script.
const WRITE_PAIRS = 'set -e; while [ $# -gt 0 ]; do echo "$2" > "$1"; shift 2; done';

/**
 * Writes network sysctls, in order; the keys are paths below /proc/sys/net with
 * slashes. Throws CommandError, or a system error in the caller's own namespace.
 */
export async function writeNetSysctls(
  settings: Readonly<Record<string, number>>,
  options: NamespaceOptions = {},
): Promise<void> {
  const pairs = Object.entries(settings).map(([key, value]) => [sysctlPath(key), `${value}`]);
  if (options.namespace === undefined) {
    for (const [path, value] of pairs) await writeFile(path ?? '', value ?? '');
    return;
  }
  await runInNamespace(options.namespace, 'sh', ['-c', WRITE_PAIRS, 'sh', ...pairs.flat()]);
}

/** Reads a network sysctl; the key is a path below /proc/sys/net. Throws CommandError. */
export async function readNetSysctl(key: string, options: NamespaceOptions = {}): Promise<string> {
  return (await runInNamespace(options.namespace, 'cat', [sysctlPath(key)])).trim();
}
