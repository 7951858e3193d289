import { basename, join } from 'node:path';
import type { MachineSpec } from '../driver.ts';
import type { FirecrackerInstallation } from './find-firecracker.ts';

/*
 * Firecracker keeps the paths of its drives in a snapshot and cannot be told others
 * when it loads one. So every machine has a root directory of its own, which is
 * Firecracker's working directory and, with the jailer, its root; in it the same
 * things have the same names in every machine, and Firecracker is told relative
 * paths only. What lies elsewhere on the host is bound to those names in a mount
 * namespace that ends with the process, so that nothing is left to unmount, and
 * that an unprivileged Firecracker need not be able to walk to.
 */

/** The names of things as Firecracker sees them. */
export const INSIDE = {
  kernel: 'kernel',
  initramfs: 'initramfs',
  drive: (id: string) => `drives/${id}`,
  /** The API socket. */
  control: 'run/api.sock',
  /** Firecracker's own log. */
  log: 'log',
  /** Device state to load: a copy, because Firecracker's user may not read the original. */
  loadedState: 'loaded/state',
  loadedMemory: 'loaded/memory',
  pageServer: 'loaded/pages.sock',
  /** A snapshot as Firecracker writes it, before it is moved to where it is wanted. */
  snapshotDirectory: 'snapshot',
  snapshotState: 'snapshot/state',
  snapshotMemory: 'snapshot/memory',
} as const;

/** The directories of {@link INSIDE}. */
export const INSIDE_DIRECTORIES = ['drives', 'run', 'loaded', 'snapshot'] as const;

/** Where a machine's things are on the host. */
export interface MachineLayout {
  /** Given to the jailer; everything that only a living Firecracker needs is below it. */
  readonly jail: string;
  /** What Firecracker sees as its working directory. */
  readonly root: string;
  /** A symbolic link to the API socket, whose own path may be longer than unix(7) allows. */
  readonly control: string;
  /** A named pipe: Firecracker's standard output, which is the serial console. */
  readonly console: string;
  /** What Firecracker prints on standard error, bounded; it stays when Firecracker has ended. */
  readonly output: string;
  /** How many snapshots were attempted of this machine. */
  readonly snapshotCount: string;
}

/** Pure. The jailer makes `JAIL/NAME OF THE PROGRAM/ID/root`, and so it is without one. */
export function machineLayout(
  spec: Pick<MachineSpec, 'id' | 'runDirectory'>,
  firecracker: Pick<FirecrackerInstallation, 'path'>,
): MachineLayout {
  const { id, runDirectory } = spec;
  const jail = join(runDirectory, 'jail');
  return {
    jail,
    root: join(jail, basename(firecracker.path), id, 'root'),
    control: join(runDirectory, 'api.sock'),
    console: join(runDirectory, 'console.pipe'),
    output: join(runDirectory, 'firecracker.log'),
    snapshotCount: join(runDirectory, 'snapshot-count'),
  };
}
