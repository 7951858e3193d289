import { basename, dirname, join } from 'node:path';
import { agentDriveKey, ensureAgentDrive } from './agent-drive/agent-drive.ts';
import { ensureInitramfs, initramfsKey } from './initramfs/initramfs.ts';
import { ensureKernel, findKernel, type GuestKernel } from './kernel/kernel.ts';
import type { OnProgress } from './progress.ts';

export interface GuestArtifacts {
  readonly kernel: {
    /** As `uname -r` shows it in the guest. */
    readonly version: string;
    /** The packed kernel, as the distribution ships it. */
    readonly bzImagePath: string;
    /** The same kernel as an ELF file, for Firecracker. */
    readonly vmlinuxPath: string;
    /**
     * The one for QEMU: the ELF file if it has a PVH entry. Unpacking the packed one takes an
     * emulated guest some four seconds.
     */
    readonly qemuPath: string;
  };
  readonly initramfsPath: string;
  readonly agentDrivePath: string;
  readonly agentDriveKey: string;
  readonly envdVersion: string;
  readonly nodeVersion: string;
}

export interface GuestArtifactOptions {
  /** The cache directory; created if it does not exist. */
  readonly cacheDir: string;
  /** Source of the daemon in the guest: a module that exports `runDaemon(args)`, in `src` of its package. */
  readonly envdEntry: string;
  readonly onProgress?: OnProgress;
}

/**
 * The artefacts that every guest needs beside its image: kernel, initramfs and agent drive.
 * Builds those that are missing or out of date; takes a fraction of a second if none are. Safe
 * to call from several processes at once. Throws `host_setup` for a tool or library that this
 * machine lacks, and `disk_full`.
 */
export async function ensureGuestArtifacts(options: GuestArtifactOptions): Promise<GuestArtifacts> {
  const { cacheDir, onProgress } = options;
  const kernel = await ensureKernel(join(cacheDir, 'kernels'), onProgress);
  const initramfsPath = await ensureInitramfs(join(cacheDir, 'initramfs'), kernel, onProgress);
  const agentDrive = await ensureAgentDrive({
    directory: join(cacheDir, 'agent-drives'),
    kernel,
    envdEntry: options.envdEntry,
    onProgress,
  });
  return {
    kernel: kernelFiles(kernel),
    initramfsPath,
    agentDrivePath: agentDrive.path,
    agentDriveKey: agentDrive.key,
    envdVersion: agentDrive.envdVersion,
    nodeVersion: agentDrive.nodeVersion,
  };
}

/** The kernel that guests boot; undefined if the cache has none yet. */
export async function findGuestKernel(
  cacheDir: string,
): Promise<GuestArtifacts['kernel'] | undefined> {
  const kernel = await findKernel(join(cacheDir, 'kernels'));
  return kernel === undefined ? undefined : kernelFiles(kernel);
}

function kernelFiles(kernel: GuestKernel): GuestArtifacts['kernel'] {
  return {
    version: kernel.version,
    bzImagePath: kernel.bzImagePath,
    vmlinuxPath: kernel.vmlinuxPath,
    qemuPath: kernel.pvhEntry ? kernel.vmlinuxPath : kernel.bzImagePath,
  };
}

/** The keys under which the cache has them. */
export function keysOf({ kernel, initramfsPath, agentDrivePath }: GuestArtifacts): string[] {
  return [kernel.bzImagePath, initramfsPath, agentDrivePath].map((path) => basename(dirname(path)));
}

/**
 * The keys of what {@link ensureGuestArtifacts} would return, without building anything: an
 * artefact that is not in the cache has a key too, provided that there is a kernel. Throws
 * `host_setup`.
 */
export async function currentKeys(options: GuestArtifactOptions): Promise<string[]> {
  const kernel = await findKernel(join(options.cacheDir, 'kernels'));
  if (kernel === undefined) return [];
  return [kernel.key, await initramfsKey(kernel), await agentDriveKey(kernel, options.envdEntry)];
}
