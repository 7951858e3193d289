import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { CommandError, runCommand } from '@torpor/linux';

/**
 * The resources of a machine that a test could leak, by kind. Each is a line that
 * names it, so that two readings are compared as sets.
 */
export interface HostReading {
  readonly processes: ReadonlySet<string>;
  readonly namespaces: ReadonlySet<string>;
  readonly interfaces: ReadonlySet<string>;
  readonly routes: ReadonlySet<string>;
  readonly mounts: ReadonlySet<string>;
  readonly loopDevices: ReadonlySet<string>;
  readonly nftTables: ReadonlySet<string>;
  readonly directories: ReadonlySet<string>;
}

export interface ReadingOptions {
  /**
   * A line `NAME=VALUE` of the environment that everything started by the tests
   * inherits: it finds processes with any name. One with another value is of another run.
   */
  readonly environmentMarker?: string;
}

/** Our own programs, also if they were started with another environment. */
const OUR_PROGRAMS =
  /qemu-system|(^|\/)postgres(:|$| )|(^|\/)firecracker( |$)|\/envd|packages\/(cli|agent|envd|pager)\/|mmdebstrap/;
const OUR_INTERFACES = /^(tp|tap|veth)/;
const OUR_DIRECTORIES = /^torpor-/;

/** Reads the current state. */
export async function readHost(options: ReadingOptions = {}): Promise<HostReading> {
  const [processes, namespaces, interfaces, routes, mounts, loopDevices, nftTables, directories] =
    await Promise.all([
      readProcesses(options.environmentMarker),
      ofRoot(list('/run/netns', () => true)),
      ofRoot(list('/sys/class/net', (name) => OUR_INTERFACES.test(name))),
      readRoutes(),
      ofRoot(readMounts()),
      ofRoot(readLoopDevices()),
      readNftTables(),
      readDirectories(),
    ]);
  return {
    processes,
    namespaces,
    interfaces,
    routes,
    mounts,
    loopDevices,
    nftTables,
    directories,
  };
}

/** The resources that are only in the later reading, as `kind: name`. */
export function findLeaks(before: HostReading, after: HostReading): string[] {
  const kinds = Object.keys(after) as (keyof HostReading)[];
  return kinds.flatMap((kind) =>
    [...after[kind]].filter((name) => !before[kind].has(name)).map((name) => `${kind}: ${name}`),
  );
}

/**
 * The leaks that still exist after `graceMs`: a process that was asked to exit
 * needs a moment.
 */
export async function settledLeaks(
  before: HostReading,
  options: ReadingOptions,
  graceMs: number,
): Promise<string[]> {
  const deadline = Date.now() + graceMs;
  for (;;) {
    const leaks = findLeaks(before, await readHost(options));
    if (leaks.length === 0 || Date.now() > deadline) return leaks;
    await delay(200);
  }
}

async function readProcesses(marker: string | undefined): Promise<Set<string>> {
  const pids = await list('/proc', (name) => /^\d+$/.test(name));
  const found = new Set<string>();
  await Promise.all(
    [...pids].map(async (pid) => {
      if (Number(pid) === process.pid) return;
      const command = (await readText(`/proc/${pid}/cmdline`)).replaceAll('\0', ' ').trim();
      // Kernel threads and zombies have none.
      if (command === '') return;
      if (!(await canBeOurs(`/proc/${pid}`))) return;
      const run = marker === undefined ? undefined : await runOf(pid, marker);
      if (run === 'another') return;
      if (run === 'this' || OUR_PROGRAMS.test(command)) {
        found.add(`${pid} ${command.slice(0, 200)}`);
      }
    }),
  );
  return found;
}

/** The test run that started a process; undefined if its environment does not say so. */
async function runOf(pid: string, marker: string): Promise<'this' | 'another' | undefined> {
  const environment = (await readText(`/proc/${pid}/environ`)).split('\0');
  if (environment.includes(marker)) return 'this';
  const name = `${marker.split('=', 1)[0]}=`;
  return environment.some((line) => line.startsWith(name)) ? 'another' : undefined;
}

/** What only root can make: nothing of it is an ordinary user's. */
async function ofRoot(found: Promise<Set<string>>): Promise<Set<string>> {
  return process.getuid?.() === 0 ? await found : new Set();
}

/** Whether this user could have made a file or process: another user's is not ours, unless we are root. */
async function canBeOurs(path: string): Promise<boolean> {
  const uid = process.getuid?.();
  if (uid === 0) return true;
  const owner = await stat(path).catch(() => undefined);
  return owner?.uid === uid;
}

/** Addresses that an instance reserves. */
async function readRoutes(): Promise<Set<string>> {
  return printedToRoot('ip', ['-4', 'route', 'show', 'type', 'unreachable']);
}

async function readMounts(): Promise<Set<string>> {
  const text = await readText('/proc/self/mountinfo');
  return new Set(text.split('\n').flatMap((line) => line.split(' ')[4] ?? []));
}

async function readLoopDevices(): Promise<Set<string>> {
  const devices = await list('/sys/block', (name) => name.startsWith('loop'));
  const found = new Set<string>();
  for (const device of devices) {
    const backing = (await readText(`/sys/block/${device}/loop/backing_file`)).trim();
    if (backing !== '') found.add(`/dev/${device} on ${backing}`);
  }
  return found;
}

async function readNftTables(): Promise<Set<string>> {
  return printedToRoot('nft', ['list', 'tables']);
}

async function readDirectories(): Promise<Set<string>> {
  const found = new Set<string>();
  for (const parent of ['/dev/shm', '/run', tmpdir()]) {
    for (const name of await list(parent, (entry) => OUR_DIRECTORIES.test(entry))) {
      const path = join(parent, name);
      if (!(await canBeOurs(path))) continue;
      // A link is only a name of another directory.
      const target = await readlink(path).catch(() => undefined);
      found.add(target === undefined ? path : `${path} -> ${target}`);
    }
  }
  return found;
}

async function list(directory: string, wanted: (name: string) => boolean): Promise<Set<string>> {
  return new Set((await readdir(directory).catch(() => [])).filter(wanted));
}

/** The file's text, or nothing if it no longer exists or is not ours to read. */
function readText(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '');
}

/** Without the program on the host, there is nothing that it could list. */
function isNothingYet(error: CommandError): boolean {
  return NOTHING_YET.test(error.stderr) || /ENOENT/.test(error.message);
}

/** The messages of these programs while the kernel has never had a route or a table. */
const NOTHING_YET =
  /FIB table does not exist|(?:Operation|Protocol|Address family) not supported|not supported by protocol/;

/**
 * The lines that a program prints, without its warnings. Nothing for an ordinary user,
 * who cannot create what it lists. Throws CommandError.
 */
async function printedToRoot(program: string, args: readonly string[]): Promise<Set<string>> {
  if (process.geteuid?.() !== 0) return new Set();
  const output = await runCommand(program, args).catch((error: unknown) => {
    if (error instanceof CommandError && isNothingYet(error)) return '';
    throw error;
  });
  const lines = output.split('\n').map((line) => line.trim());
  return new Set(lines.filter((line) => line !== '' && !/^(?:#|Warning:)/.test(line)));
}
