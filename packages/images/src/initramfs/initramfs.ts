import { readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { TorporError } from '@torpor/protocol';
import { computeKey, ensureArtifact, hashFile } from '../cache/artifact-cache.ts';
import { parseElf } from '../elf/elf.ts';
import type { GuestKernel } from '../kernel/kernel.ts';
import type { OnProgress } from '../progress.ts';
import { findProgram } from '../required-tools.ts';
import { type CpioEntry, writeCpio } from './cpio.ts';
import { initScript } from './init-script.ts';
import { withoutSignature } from './module-signature.ts';

/** Raised when the layout of the archive changes. */
const RECIPE = 2;

/** What /init calls. Each becomes a link to busybox. */
const APPLETS = [
  'chmod',
  'ifconfig',
  'insmod',
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
 * The initramfs for a kernel. It is not compressed: unpacking would cost an
 * emulated guest more than the loading of its 3 MB. Returns its path.
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
      assertStatic(busybox);
      onProgress({ artifact: 'initramfs', message: 'writing the initramfs' });
      const archive = writeCpio(await collectEntries(kernel, busybox, script));
      await writeFile(join(staging, 'initramfs.cpio'), archive);
    },
  });
  return join(artifact, 'initramfs.cpio');
}

/** Of the initramfs that {@link ensureInitramfs} returns, whether it has been made or not. */
export async function initramfsKey(kernel: GuestKernel): Promise<string> {
  return (await ingredients(kernel)).key;
}

async function ingredients(kernel: GuestKernel) {
  const busyboxPath = await findProgram('busybox');
  const script = initScript(kernel.modulePaths.map((path) => basename(path)));
  const key = computeKey({
    recipe: RECIPE,
    kernel: kernel.key,
    busybox: await hashFile(busyboxPath),
    script,
    applets: APPLETS,
    directories: DIRECTORIES,
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
      data: withoutSignature(await readFile(path)),
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
    { kind: 'file', path: 'init', data: Buffer.from(script), mode: 0o755 },
  ];
}

function assertStatic(busybox: Buffer): void {
  if (parseElf(busybox).interpreter === undefined) return;
  throw new TorporError('host_setup', 'busybox is not statically linked.', {
    remedy: 'Install the Debian package busybox-static.',
  });
}
