import { chmod, chown, copyFile, mkdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { TorporError } from '@torpor/protocol';
import type { MachineSpec, RestoreSource } from '../driver.ts';
import type { Binding } from './jailer.ts';
import { devicesDirectory } from './jailer.ts';
import { INSIDE, INSIDE_DIRECTORIES, type MachineLayout } from './machine-layout.ts';

type User = NonNullable<MachineSpec['user']>;

/** Some file systems round up; a limit that is a little too high does no harm. */
const FILE_SIZE_SLACK_BYTES = 1024 * 1024;

/**
 * Makes a machine's root directory and says what is to be bound into it. What the
 * machine shares with others (kernel, initramfs, read-only drives, a memory file)
 * stays as it is and must be readable by everybody; what is its own (writable
 * drives, the page server's socket) is given to its user. Throws `host_setup` for
 * a shared file that the user may not read, or a file system error.
 */
export async function makeRoot(
  spec: MachineSpec,
  layout: MachineLayout,
  source: RestoreSource | undefined,
): Promise<Binding[]> {
  // Firecracker's user must be able to walk from the jail on; the run directory keeps others out.
  await mkdir(layout.root, { recursive: true, mode: 0o755 });
  await mkdir(devicesDirectory(layout), { mode: 0o755 });
  for (const name of INSIDE_DIRECTORIES) {
    const directory = join(layout.root, name);
    await mkdir(directory, { mode: 0o700 });
    await give(directory, spec.user);
  }
  await give(layout.root, spec.user);
  await makeOwnFile(join(layout.root, INSIDE.log), spec.user);
  await symlink(join(layout.root, INSIDE.control), layout.control);
  if (source !== undefined) {
    const state = join(layout.root, INSIDE.loadedState);
    await copyFile(source.statePath, state);
    await chmod(state, 0o400);
    await give(state, spec.user);
  }
  const bindings: Binding[] = [];
  for (const { path, inside, readOnly } of sharedWithHost(spec, source)) {
    if (readOnly) await checkReadable(path, spec.user);
    else await give(path, spec.user);
    const target = join(layout.root, inside);
    await writeFile(target, '', { flag: 'wx' });
    bindings.push({ source: path, target, readOnly });
  }
  return bindings;
}

/** Removes what only a living Firecracker needs; its output stays for whoever asks why it ended. */
export async function removeRoot(layout: MachineLayout): Promise<void> {
  await rm(layout.control, { force: true });
  await rm(layout.console, { force: true });
  await rm(layout.snapshotCount, { force: true });
  await rm(layout.jail, { recursive: true, force: true });
}

/** The largest file that a machine's Firecracker has a reason to write, in bytes. */
export async function largestFile(spec: MachineSpec): Promise<number> {
  const sizes = [spec.memoryMiB * 1024 * 1024];
  for (const drive of spec.drives) {
    if (!drive.readOnly) sizes.push((await stat(drive.path)).size);
  }
  return Math.max(...sizes) + FILE_SIZE_SLACK_BYTES;
}

interface Shared {
  readonly path: string;
  readonly inside: string;
  readonly readOnly: boolean;
}

function sharedWithHost(spec: MachineSpec, source: RestoreSource | undefined): Shared[] {
  const drives = spec.drives.map(({ id, path, readOnly }) => ({
    path,
    inside: INSIDE.drive(id),
    readOnly,
  }));
  if (source === undefined) {
    return [
      { path: spec.kernelPath, inside: INSIDE.kernel, readOnly: true },
      { path: spec.initramfsPath, inside: INSIDE.initramfs, readOnly: true },
      ...drives,
    ];
  }
  const { memory } = source;
  return [
    memory.kind === 'file'
      ? { path: memory.path, inside: INSIDE.loadedMemory, readOnly: true }
      : { path: memory.socketPath, inside: INSIDE.pageServer, readOnly: false },
    ...drives,
  ];
}

async function makeOwnFile(path: string, user: User | undefined): Promise<void> {
  await writeFile(path, '', { flag: 'wx', mode: 0o600 });
  await give(path, user);
}

async function give(path: string, user: User | undefined): Promise<void> {
  if (user !== undefined) await chown(path, user.uid, user.gid);
}

async function checkReadable(path: string, user: User | undefined): Promise<void> {
  const { mode, uid } = await stat(path).catch((error: Error) => {
    throw new TorporError('vmm_failed', `${path} cannot be used: ${error.message}.`, {
      cause: error,
    });
  });
  if (user === undefined || user.uid === 0 || (mode & 0o004) !== 0) return;
  if (uid === user.uid && (mode & 0o400) !== 0) return;
  const what = `${path} cannot be read by Firecracker, which runs as user ${user.uid}.`;
  const remedy = `Make it readable: chmod o+r ${path}`;
  throw new TorporError('host_setup', what, { remedy });
}
