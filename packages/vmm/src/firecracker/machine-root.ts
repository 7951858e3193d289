import { chmod, chown, copyFile, mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { TorporError, withFullStop } from '@torpor/protocol';
import type { MachineSpec, RestoreSource } from '../driver.ts';
import type { Binding } from './jailer.ts';
import { INSIDE, type MachineLayout } from './machine-layout.ts';

type User = NonNullable<MachineSpec['user']>;

/** Some file systems round up; a limit that is slightly too high is harmless. */
const FILE_SIZE_SLACK_BYTES = 1024 * 1024;

/**
 * Makes a machine's root directory and returns what must be bound into it. Files that the
 * machine shares with others (kernel, initramfs, read-only drives, a memory file) stay as they
 * are and must be world-readable; its own files (writable drives, the page server's socket) are
 * chowned to its user. Throws `host_setup` for a shared file that the user may not read,
 * `vmm_failed` for one that is missing.
 */
export async function makeRoot(
  spec: MachineSpec,
  layout: MachineLayout,
  root: string,
  source: RestoreSource | undefined,
): Promise<Binding[]> {
  for (const directory of [layout.controlDirectory, layout.snapshotDirectory]) {
    await mkdir(directory, { mode: 0o700 });
    await give(directory, spec.user);
  }
  await writeFile(layout.log, '', { flag: 'a', mode: 0o600 });
  await mkdir(root, { recursive: true });
  for (const name of ['drives', 'loaded', 'devices']) await mkdir(join(root, name));
  if (source !== undefined) {
    const state = join(root, INSIDE.loadedState);
    await checkExists(source.statePath);
    await copyFile(source.statePath, state);
    await chmod(state, 0o400);
    await give(state, spec.user);
  }
  const bindings: Binding[] = [];
  for (const { path, inside, readOnly, isDirectory } of bound(spec, layout, source)) {
    if (readOnly) await checkReadable(path, spec.user);
    else await give(path, spec.user);
    const target = join(root, inside);
    await (isDirectory ? mkdir(target) : writeFile(target, '', { flag: 'wx' }));
    bindings.push({ source: path, target, readOnly });
  }
  return bindings;
}

/** Makes the directory of the API socket read-only to Firecracker, so that it cannot replace the socket. */
export async function sealControl(layout: MachineLayout): Promise<void> {
  await chown(layout.controlDirectory, process.getuid?.() ?? 0, process.getgid?.() ?? 0);
}

/** Removes what only a running Firecracker needs; its output stays, to explain its exit. */
export async function removeRoot(layout: MachineLayout): Promise<void> {
  const { controlDirectory, snapshotDirectory, jail } = layout;
  for (const directory of [controlDirectory, snapshotDirectory, jail]) {
    await rm(directory, { recursive: true, force: true });
  }
  for (const file of [layout.console, layout.snapshotCount]) await rm(file, { force: true });
}

/** The largest file that a machine's Firecracker has a reason to write, in bytes. */
export async function largestFile(spec: MachineSpec): Promise<number> {
  const sizes = [spec.memoryMiB * 1024 * 1024];
  for (const drive of spec.drives) {
    if (!drive.readOnly) sizes.push((await checkExists(drive.path)).size);
  }
  return Math.max(...sizes) + FILE_SIZE_SLACK_BYTES;
}

interface Bound {
  readonly path: string;
  readonly inside: string;
  readonly readOnly: boolean;
  readonly isDirectory?: boolean;
}

function bound(
  spec: MachineSpec,
  layout: MachineLayout,
  source: RestoreSource | undefined,
): Bound[] {
  const { controlDirectory, snapshotDirectory } = INSIDE;
  return [
    { path: layout.log, inside: INSIDE.log, readOnly: false },
    ...[
      { path: layout.controlDirectory, inside: controlDirectory },
      { path: layout.snapshotDirectory, inside: snapshotDirectory },
    ].map((directory) => ({ ...directory, readOnly: false, isDirectory: true })),
    ...(source === undefined ? bootFiles(spec) : [memory(source)]),
    ...spec.drives.map(({ id, path, readOnly }) => ({ path, inside: INSIDE.drive(id), readOnly })),
  ];
}

function bootFiles(spec: MachineSpec): Bound[] {
  return [
    { path: spec.kernelPath, inside: INSIDE.kernel, readOnly: true },
    { path: spec.initramfsPath, inside: INSIDE.initramfs, readOnly: true },
  ];
}

function memory({ memory }: RestoreSource): Bound {
  return memory.kind === 'file'
    ? { path: memory.path, inside: INSIDE.loadedMemory, readOnly: true }
    : { path: memory.socketPath, inside: INSIDE.pageServer, readOnly: false };
}

async function give(path: string, user: User | undefined): Promise<void> {
  await checkExists(path);
  if (user !== undefined) await chown(path, user.uid, user.gid);
}

async function checkReadable(path: string, user: User | undefined): Promise<void> {
  const { mode } = await checkExists(path);
  if (user === undefined || user.uid === 0 || (mode & 0o004) !== 0) return;
  const what = `${path} cannot be read by Firecracker, which runs as user ${user.uid}.`;
  const remedy = `Make it readable: chmod o+r ${path}`;
  throw new TorporError('host_setup', what, { remedy });
}

async function checkExists(
  path: string,
): Promise<{ readonly mode: number; readonly size: number }> {
  try {
    return await stat(path);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new TorporError(
      'vmm_failed',
      `A file of the machine cannot be used: ${withFullStop(why)}`,
      {
        cause: error,
      },
    );
  }
}
