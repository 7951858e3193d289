import { readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { computeKey, ensureArtifact, hashFile } from '../cache/artifact-cache.ts';
import type { GuestKernel } from '../kernel/kernel.ts';
import type { OnProgress } from '../progress.ts';
import { findStaticBusybox } from '../required-tools.ts';
import { type CpioEntry, writeCpio } from './cpio.ts';
import { deviceArchive } from './devices.ts';
import { INIT_FILES, initScript } from './init-script.ts';
import { mountTable } from './mount-table.ts';

/** Raised when the layout of the archive changes. */
const RECIPE = 4;

const PAGE_BYTES = 4096;
/** Bytes of its last page that the archive uses; see {@link leaveLastPage}. */
const LAST_PAGE_BYTES = 64;

/** The commands that /init calls. Each is a link to busybox. */
const APPLETS = [
  'chmod',
  'cpio',
  'ifconfig',
  'insmod',
  'ln',
  'mkdir',
  'mount',
  'poweroff',
  'reboot',
  'route',
  'sh',
  'sleep',
  'switch_root',
  'usleep',
];

const DIRECTORIES = [
  'bin',
  'dev',
  'proc',
  'sys',
  'modules',
  'root',
  'layers',
  'layers/base',
  'layers/agent',
  'layers/upper',
];

/**
 * The initramfs for a kernel. It is not compressed: unpacking would cost an emulated guest more
 * than loading its 3 MB. Returns its path.
 */
export async function ensureInitramfs(
  directory: string,
  kernel: GuestKernel,
  onProgress: OnProgress = () => undefined,
): Promise<string> {
  const { key, busyboxPath, script } = await ingredients(kernel);
  const artifact = await ensureArtifact({
    directory,
    key,
    build: async (staging) => {
      const busybox = await readFile(busyboxPath);
      onProgress({ artifact: 'initramfs', message: 'writing the initramfs' });
      const archive = writeCpio(await collectEntries(kernel, busybox, script));
      await writeFile(join(staging, 'initramfs.cpio'), leaveLastPage(archive));
    },
  });
  return join(artifact, 'initramfs.cpio');
}

/** The key of the initramfs that {@link ensureInitramfs} returns, whether it exists or not. */
export async function initramfsKey(kernel: GuestKernel): Promise<string> {
  return (await ingredients(kernel)).key;
}

async function ingredients(kernel: GuestKernel) {
  const busyboxPath = await findStaticBusybox();
  const script = initScript(kernel.modulePaths.map((path) => basename(path)));
  const key = computeKey({
    recipe: RECIPE,
    kernel: kernel.key,
    busybox: await hashFile(busyboxPath),
    script,
    applets: APPLETS,
    directories: DIRECTORIES,
    mounts: mountTable(),
    devices: (await deviceArchive(kernel.moduleTree)).toString('latin1'),
  });
  return { key, busyboxPath, script };
}

async function collectEntries(
  kernel: GuestKernel,
  busybox: Buffer,
  script: string,
): Promise<CpioEntry[]> {
  const modules = kernel.modulePaths.map(
    async (path): Promise<CpioEntry> => ({
      kind: 'file',
      path: `modules/${basename(path)}`,
      data: await readFile(path),
    }),
  );
  return [
    ...DIRECTORIES.map((path): CpioEntry => ({ kind: 'directory', path })),
    // The kernel opens it as the standard streams of /init, before there is a devtmpfs.
    { kind: 'character-device', path: 'dev/console', major: 5, minor: 1 },
    { kind: 'file', path: 'bin/busybox', data: busybox, mode: 0o755 },
    ...APPLETS.map(
      (name): CpioEntry => ({ kind: 'symlink', path: `bin/${name}`, target: 'busybox' }),
    ),
    ...(await Promise.all(modules)),
    { kind: 'file', path: INIT_FILES.mounts, data: Buffer.from(mountTable()) },
    { kind: 'file', path: INIT_FILES.devices, data: await deviceArchive(kernel.moduleTree) },
    { kind: 'file', path: 'init', data: Buffer.from(script), mode: 0o755 },
  ];
}

/**
 * QEMU's microvm places the initramfs at the end of RAM, from a page boundary, without regard
 * to the ACPI tables that its firmware has put at the very end (about 1 KiB; hw/i386/microvm.c
 * passes no `acpi_data_size`). So the archive is padded with zeros, which the kernel skips, to
 * just after the beginning of its last page: the rest of the page is for the tables.
 */
export function leaveLastPage(archive: Buffer): Buffer {
  const beyond = archive.length % PAGE_BYTES;
  return beyond === 0 || beyond > LAST_PAGE_BYTES
    ? Buffer.concat([archive, Buffer.alloc(((PAGE_BYTES - beyond) % PAGE_BYTES) + LAST_PAGE_BYTES)])
    : archive;
}
