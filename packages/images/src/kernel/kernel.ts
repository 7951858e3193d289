import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ignoreMissing, runCommand } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { z } from 'zod';
import { computeKey, ensureArtifact, listArtifacts } from '../cache/artifact-cache.ts';
import { toImageError } from '../cache/image-error.ts';
import type { OnProgress } from '../progress.ts';
import { extractVmlinux } from './bz-image.ts';
import { GUEST_MODULE_DIRECTORIES, makeModuleTree } from './module-tree.ts';
import { type KernelModule, orderModules, readModuleInfo } from './modules.ts';

/** Raised when the files kept of a kernel change. */
export const KERNEL_RECIPE = 2;

/** Modules that the guest loads at boot, unless the kernel has them built in. */
const BOOT_MODULES = [
  'virtio',
  'virtio_ring',
  'virtio_pci',
  'virtio_mmio',
  'virtio_blk',
  'virtio_net',
  'virtio_rng',
  'overlay',
];

/**
 * Distribution packages with a kernel, the preferred one first: 6.12 has
 * VMGENID and the virtio core built in. Meta packages: each depends on the
 * package with the files.
 */
const META_PACKAGES = ['linux-image-6.12-cloud-amd64', 'linux-image-cloud-amd64'];

const APT_TIMEOUT_MS = 10 * 60_000;

const manifestSchema = z.strictObject({
  recipe: z.literal(KERNEL_RECIPE),
  packageName: z.string(),
  packageVersion: z.string(),
  /** As `uname -r` shows it. */
  release: z.string(),
  pvhEntry: z.boolean(),
  /** File names below `modules/`, in the order in which they must be loaded. */
  modules: z.array(z.string()),
});

export interface GuestKernel {
  readonly key: string;
  /** As `uname -r` shows it in the guest. */
  readonly version: string;
  /** The packed kernel, as the distribution ships it. */
  readonly bzImagePath: string;
  /** The same kernel as an ELF file. */
  readonly vmlinuxPath: string;
  /** Whether the ELF file has a PVH entry. */
  readonly pvhEntry: boolean;
  /** The modules that a guest loads at boot, in the order in which they must be loaded. */
  readonly modulePaths: readonly string[];
  /** The contents of /lib/modules/VERSION in a guest. */
  readonly moduleTree: string;
}

/**
 * The guest kernel: the one in the cache, or else Debian's, fetched with apt but
 * not installed. Throws `host_setup` if apt knows none, and `disk_full`.
 */
export async function ensureKernel(
  directory: string,
  onProgress: OnProgress = () => undefined,
): Promise<GuestKernel> {
  const cached = await findKernel(directory);
  if (cached !== undefined) return cached;
  const report = (message: string) => onProgress({ artifact: 'kernel', message });
  report('asking apt for the guest kernel');
  const { name, version } = await findPackage().catch((error: unknown) => {
    throw toImageError(error);
  });
  const key = computeKey({
    recipe: KERNEL_RECIPE,
    name,
    version,
    modules: BOOT_MODULES,
    directories: GUEST_MODULE_DIRECTORIES,
  });
  await ensureArtifact({
    directory,
    key,
    build: async (staging) => {
      report(`fetching ${name} ${version}`);
      const root = await unpackPackage(name, join(staging, 'unpack'));
      report('extracting vmlinux and the modules');
      await buildKernel(root, staging, { name, version });
      await rm(join(staging, 'unpack'), { recursive: true });
    },
    onWait: () => report('waiting for another process that fetches it'),
  });
  const kernel = await readKernel(directory, key);
  if (kernel === undefined)
    throw new TorporError('internal_error', 'The guest kernel no longer exists.');
  report(`kernel ${kernel.version} is ready`);
  return kernel;
}

/** The kernel in the cache that guests boot; undefined if there is none. */
export async function findKernel(directory: string): Promise<GuestKernel | undefined> {
  const kernels = [];
  for (const key of await listArtifacts(directory)) {
    const kernel = await readKernel(directory, key);
    if (kernel !== undefined) kernels.push(kernel);
  }
  kernels.sort((a, b) => b.version.localeCompare(a.version, 'en', { numeric: true }));
  return kernels[0];
}

/** Undefined if it does not exist or was made by another recipe. */
async function readKernel(directory: string, key: string): Promise<GuestKernel | undefined> {
  const path = join(directory, key);
  const text = await readFile(join(path, 'manifest.json'), 'utf8').catch(ignoreMissing);
  if (text === undefined) return undefined;
  const manifest = manifestSchema.safeParse(JSON.parse(text));
  if (!manifest.success) return undefined;
  return {
    key,
    version: manifest.data.release,
    bzImagePath: join(path, 'vmlinuz'),
    vmlinuxPath: join(path, 'vmlinux'),
    pvhEntry: manifest.data.pvhEntry,
    modulePaths: manifest.data.modules.map((name) => join(path, 'modules', name)),
    moduleTree: join(path, 'lib', 'modules', manifest.data.release),
  };
}

interface Package {
  readonly name: string;
  readonly version: string;
}

async function findPackage(): Promise<Package> {
  for (const meta of META_PACKAGES) {
    const text = await showPackage(meta);
    const name = /^Depends:.*?\b(linux-image-\d\S*-cloud-amd64)\b/m.exec(text ?? '')?.[1];
    if (name === undefined) continue;
    const version = /^Version: (\S+)$/m.exec((await showPackage(name)) ?? '')?.[1];
    if (version !== undefined) return { name, version };
  }
  throw new TorporError(
    'host_setup',
    `apt has no guest kernel: none of the packages ${META_PACKAGES.join(', ')} can be installed.`,
    { remedy: 'Run `apt-get update`; the machine must be amd64 with Debian as an apt source.' },
  );
}

/** apt's record of a package's candidate; undefined for a package that it does not know. */
async function showPackage(name: string): Promise<string | undefined> {
  return runCommand('apt-cache', ['show', '--no-all-versions', name], {
    timeoutMs: APT_TIMEOUT_MS,
  }).catch((error: unknown) => {
    if (error instanceof Error && error.message.includes('ENOENT')) throw error;
    return undefined;
  });
}

/** Fetches a package into a directory of its own and unpacks it there, without installing it. */
async function unpackPackage(name: string, directory: string): Promise<string> {
  const root = join(directory, 'root');
  await mkdir(root, { recursive: true });
  // apt's sandbox user could not write to a private directory.
  await runCommand('apt-get', ['-q', '-o', 'APT::Sandbox::User=root', 'download', name], {
    cwd: directory,
    timeoutMs: APT_TIMEOUT_MS,
  });
  const archive = (await readdir(directory)).find((file) => file.endsWith('.deb'));
  if (archive === undefined) {
    throw new TorporError('internal_error', `apt did not download the package ${name}.`);
  }
  await runCommand('dpkg-deb', ['-x', join(directory, archive), root]);
  return root;
}

async function buildKernel(root: string, target: string, source: Package): Promise<void> {
  const image = (await readdir(join(root, 'boot'))).find((name) => name.startsWith('vmlinuz-'));
  if (image === undefined) {
    throw new TorporError('internal_error', `The package ${source.name} has no kernel image.`);
  }
  const release = image.slice('vmlinuz-'.length);
  const bzImage = await readFile(join(root, 'boot', image));
  const { vmlinux, pvhEntry } = extractVmlinux(bzImage);
  await writeFile(join(target, 'vmlinuz'), bzImage);
  await writeFile(join(target, 'vmlinux'), vmlinux);
  const tree = await makeModuleTree(join(root, 'lib', 'modules', release), target, release);
  const modules = await collectBootModules(tree.paths, target);
  const manifest: z.infer<typeof manifestSchema> = {
    recipe: KERNEL_RECIPE,
    packageName: source.name,
    packageVersion: source.version,
    release,
    pvhEntry,
    modules,
  };
  await writeFile(join(target, 'manifest.json'), JSON.stringify(manifest, undefined, 2));
}

/** Copies {@link BOOT_MODULES} and what they need to `target/modules`; returns their file names in order. */
async function collectBootModules(
  paths: ReadonlyMap<string, string>,
  target: string,
): Promise<string[]> {
  const modules = new Map<string, KernelModule>();
  const collect = async (name: string): Promise<void> => {
    const path = paths.get(name);
    // Without a module it is built into the kernel; a guest that lacks it reports that at boot.
    if (path === undefined || modules.has(name)) return;
    const module = readModuleInfo(await readFile(path));
    modules.set(name, module);
    for (const dependency of module.dependencies) await collect(dependency);
  };
  for (const name of BOOT_MODULES) await collect(name);
  const order = orderModules(BOOT_MODULES, (name) => modules.get(name)?.dependencies);
  await mkdir(join(target, 'modules'));
  for (const name of order) {
    await copyFile(paths.get(name) ?? '', join(target, 'modules', `${name}.ko`));
  }
  return order.map((name) => `${name}.ko`);
}
