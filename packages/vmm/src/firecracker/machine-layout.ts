import { basename, join } from 'node:path';
import type { MachineSpec } from '../driver.ts';
import type { FirecrackerInstallation } from './find-firecracker.ts';

/*
 * Firecracker keeps the paths of its drives in a snapshot and cannot be told others when it
 * loads one. So every machine has a root directory of its own, which is Firecracker's working
 * directory and, with the jailer, its root; in it the files have the same names in every
 * machine, and Firecracker is given relative paths only. Files elsewhere on the host are
 * bind-mounted to those names in a mount namespace that exists as long as the process: nothing
 * is left to unmount, and an unprivileged Firecracker needs no access to their directories.
 *
 * A Firecracker that its guest controls can do what it likes below its root. The host therefore
 * never follows a path through the root once Firecracker runs: the two directories that
 * Firecracker writes to are beside it and bound into it.
 */

/** Paths as Firecracker sees them. */
export const INSIDE = {
  kernel: 'kernel',
  initramfs: 'initramfs',
  drive: (id: string) => `drives/${id}`,
  /** Of the API socket. */
  controlDirectory: 'run',
  control: 'run/api.sock',
  /** Firecracker's own log. */
  log: 'log',
  /** Device state to load: a copy, because Firecracker's user may not read the original. */
  loadedState: 'loaded/state',
  loadedMemory: 'loaded/memory',
  pageServer: 'loaded/pages.sock',
  /** Of a snapshot as Firecracker writes it, before it is moved to its destination. */
  snapshotDirectory: 'snapshot',
  snapshotState: 'snapshot/state',
  snapshotMemory: 'snapshot/memory',
} as const;

/** A machine's paths on the host, all in its run directory. */
export interface MachineLayout {
  readonly controlDirectory: string;
  /** The API socket. */
  readonly control: string;
  /** A named pipe: Firecracker's standard output, which is the serial console. */
  readonly console: string;
  /** Standard error of Firecracker and of what starts it, bounded; it stays when Firecracker has exited. */
  readonly output: string;
  /** Firecracker's own log, likewise. */
  readonly log: string;
  readonly snapshotDirectory: string;
  readonly snapshotState: string;
  readonly snapshotMemory: string;
  /** How many snapshots were attempted of this machine. */
  readonly snapshotCount: string;
  /** The parent of the machine's root; the jailer's base directory. */
  readonly jail: string;
}

/** Pure. */
export function machineLayout(runDirectory: string): MachineLayout {
  const controlDirectory = join(runDirectory, 'run');
  const snapshotDirectory = join(runDirectory, 'snapshot');
  return {
    controlDirectory,
    control: join(controlDirectory, 'api.sock'),
    console: join(runDirectory, 'console.pipe'),
    output: join(runDirectory, 'firecracker.err'),
    log: join(runDirectory, 'firecracker.log'),
    snapshotDirectory,
    snapshotState: join(snapshotDirectory, 'state'),
    snapshotMemory: join(snapshotDirectory, 'memory'),
    snapshotCount: join(runDirectory, 'snapshot-count'),
    jail: join(runDirectory, 'jail'),
  };
}

/** A machine's root directory on the host: where the jailer makes it, also without a jailer. Pure. */
export function rootDirectory(
  { id, runDirectory }: Pick<MachineSpec, 'id' | 'runDirectory'>,
  firecracker: Pick<FirecrackerInstallation, 'path'>,
): string {
  return join(machineLayout(runDirectory).jail, basename(firecracker.path), id, 'root');
}
