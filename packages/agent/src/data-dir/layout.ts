import { createHash } from 'node:crypto';
import { chmod, mkdir, realpath, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { newId } from '@torpor/protocol';

/**
 * The paths of the host agent. Parent directories of files that other users may need can be
 * traversed but not listed (0711); the files of a sandbox are accessible to root only. A VMM
 * runs under an unprivileged user: it opens its files before it drops root, and a process that
 * escapes from it can open none.
 */
export interface DataLayout {
  readonly dataDir: string;
  /** Six hexadecimal digits that distinguish this data directory from others on the machine. */
  readonly instance: string;
  readonly lockFile: string;
  readonly journalFile: string;
  /** Secret from which the guests' access tokens are derived. */
  readonly guestKeyFile: string;
  /** Which block of addresses the network slots use. */
  readonly networkStateFile: string;
  /** The pager's control socket and log. */
  readonly pagerSocket: string;
  readonly pagerLog: string;
  /** Record, disk and console log of a sandbox. */
  sandboxDirectory(id: string): string;
  recordFile(id: string): string;
  upperDisk(id: string): string;
  consoleLog(id: string): string;
  /** Sockets and output of the VMM. */
  runDirectory(id: string): string;
  /** Guest RAM, on tmpfs. */
  memoryFile(id: string): string;
  /** Directories whose entries are named after sandboxes. */
  readonly sandboxesRoot: string;
  readonly runRoot: string;
  readonly memoryRoot: string;
}

/** The longest run directory that leaves room for socket names: `MachineSpec.runDirectory`. */
const MAX_RUN_DIRECTORY_BYTES = 80;
const ID_BYTES = newId('sandbox').length;

/** Six hexadecimal digits from the real path of a data directory. */
export function instanceTag(realDataDir: string): string {
  return createHash('sha256').update(realDataDir).digest('hex').slice(0, 6);
}

export function sandboxesIn(dataDir: string): string {
  return join(dataDir, 'sandboxes');
}

export function recordFileIn(dataDir: string, id: string): string {
  return join(sandboxesIn(dataDir), id, 'sandbox.json');
}

/** Creates the directories of a data directory that are missing, and sets their modes. */
export async function openLayout(dataDir: string): Promise<DataLayout> {
  await mkdir(dataDir, { recursive: true });
  const root = await realpath(dataDir);
  const instance = instanceTag(root);
  const sandboxesRoot = sandboxesIn(root);
  const memoryRoot = join('/dev/shm', `torpor-${instance}`);
  const localRun = join(root, 'run');
  const fits = Buffer.byteLength(localRun) + 1 + ID_BYTES <= MAX_RUN_DIRECTORY_BYTES;
  const runRoot = fits ? localRun : join('/run', `torpor-${instance}`);
  for (const directory of [root, sandboxesRoot, runRoot, memoryRoot]) {
    await makeDirectory(directory, 0o711);
  }
  for (const directory of [join(root, 'journal'), join(root, 'keys')]) {
    await makeDirectory(directory, 0o700);
  }
  return {
    dataDir: root,
    instance,
    lockFile: join(root, 'agent.lock'),
    journalFile: join(root, 'journal', 'resources.jsonl'),
    guestKeyFile: join(root, 'keys', 'guest.key'),
    networkStateFile: join(root, 'journal', 'network.json'),
    pagerSocket: join(runRoot, 'pager.sock'),
    pagerLog: join(root, 'journal', 'pager.log'),
    sandboxDirectory: (id) => join(sandboxesRoot, id),
    recordFile: (id) => recordFileIn(root, id),
    upperDisk: (id) => join(sandboxesRoot, id, 'upper.ext4'),
    consoleLog: (id) => join(sandboxesRoot, id, 'console.log'),
    runDirectory: (id) => join(runRoot, id),
    memoryFile: (id) => join(memoryRoot, `${id}.ram`),
    sandboxesRoot,
    runRoot,
    memoryRoot,
  };
}

/** Creates a directory with exactly this mode, regardless of the umask; an existing one gets it too. */
async function makeDirectory(path: string, mode: number): Promise<void> {
  await mkdir(path, { recursive: true, mode });
  await chmod(path, mode);
}

/** Removes the directories outside the data directory unless a sandbox still uses them. */
export async function closeLayout(layout: DataLayout): Promise<void> {
  for (const directory of [layout.runRoot, layout.memoryRoot]) {
    await rmdir(directory).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOTEMPTY' && error.code !== 'ENOENT') throw error;
    });
  }
}
