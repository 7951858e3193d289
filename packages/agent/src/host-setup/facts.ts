import type { StatsFs } from 'node:fs';
import { readFile, statfs } from 'node:fs/promises';
import { freemem, release, totalmem } from 'node:os';
import { dirname } from 'node:path';
import type { KernelModules } from '@torpor/linux';
import { formatBytes } from '@torpor/protocol';
import { forwardingObstacles } from '../network/index.ts';
import { findSystemProgram } from './checks.ts';
import { HOST_KERNEL } from './kernel-features.ts';
import type { Fact } from './requirement.ts';

/** Less than this is too little for an image and a few disks. */
const LOW_DISK_BYTES = 4 * 1024 ** 3;
/** One sandbox of the default size. */
const LOW_MEMORY_BYTES = 768 * 1024 ** 2;
const SHARED_MEMORY = '/dev/shm';

/** The facts about this machine. Like the checks of requirements, it loads no kernel module. */
export function collectFacts(
  dataDir: string,
  modules: KernelModules = HOST_KERNEL.modules,
): Promise<Fact[]> {
  return Promise.all([system(), memory(), sharedMemory(), disk(dataDir), forwarding(modules)]);
}

async function system(): Promise<Fact> {
  const text = await readFile('/etc/os-release', 'utf8').catch(() => '');
  const name = /^PRETTY_NAME="?([^"\n]+)"?$/m.exec(text)?.[1] ?? 'an unknown Linux';
  return {
    id: 'system',
    result: {
      state: 'found',
      detail: `${name}, kernel ${release()}, Node ${process.versions.node}`,
    },
    remedy: '',
  };
}

async function memory(): Promise<Fact> {
  const info = await readFile('/proc/meminfo', 'utf8').catch(() => '');
  const kib = /^MemAvailable:\s+(\d+) kB$/m.exec(info)?.[1];
  const available = kib === undefined ? freemem() : Number(kib) * 1024;
  return {
    id: 'memory',
    result: {
      state: available < LOW_MEMORY_BYTES ? 'degraded' : 'found',
      detail: `${formatBytes(available)} available of ${formatBytes(totalmem())}`,
    },
    remedy: 'Free some memory: a sandbox needs the memory that it is given, and a little more.',
  };
}

/** Guest RAM is in files on /dev/shm. */
async function sharedMemory(): Promise<Fact> {
  const remedy = `Enlarge it: \`mount -o remount,size=75% ${SHARED_MEMORY}\`.`;
  try {
    const { bavail, blocks, bsize } = await statfs(SHARED_MEMORY);
    const free = bavail * bsize;
    return {
      id: 'shared-memory',
      result: {
        state: free < LOW_MEMORY_BYTES ? 'degraded' : 'found',
        detail: `${formatBytes(free)} free of ${formatBytes(blocks * bsize)} in ${SHARED_MEMORY}`,
      },
      remedy,
    };
  } catch {
    const result = { state: 'missing', detail: `no ${SHARED_MEMORY}` } as const;
    return { id: 'shared-memory', result, remedy: `Mount a tmpfs on ${SHARED_MEMORY}.` };
  }
}

async function disk(dataDir: string): Promise<Fact> {
  const { bavail, bsize } = await statfsOfExisting(dataDir);
  const free = bavail * bsize;
  return {
    id: 'disk',
    result: {
      state: free < LOW_DISK_BYTES ? 'degraded' : 'found',
      detail: `${formatBytes(free)} free for ${dataDir}`,
    },
    remedy: 'Free space, or set TORPOR_DATA_DIR to a larger file system.',
  };
}

async function statfsOfExisting(path: string): Promise<StatsFs> {
  try {
    return await statfs(path);
  } catch (error) {
    if (path === '/') throw error;
    return statfsOfExisting(dirname(path));
  }
}

/** Detects other firewalls that would block guests from the internet. */
async function forwarding(modules: KernelModules): Promise<Fact> {
  const remedy =
    'Allow forwarding for the interfaces tp*: the other firewall drops what Torpor allows.';
  if ((await findSystemProgram('nft')) === undefined || process.getuid?.() !== 0) {
    const result = { state: 'degraded', detail: 'not checked: this needs nft and root' } as const;
    return { id: 'forwarding', result, remedy: '' };
  }
  if ((await modules.unloaded(['nf_tables'])).length > 0) {
    const detail = 'no other firewall: the kernel has not loaded nf_tables';
    return { id: 'forwarding', result: { state: 'found', detail }, remedy };
  }
  try {
    const obstacles = await forwardingObstacles();
    return {
      id: 'forwarding',
      result:
        obstacles.length === 0
          ? { state: 'found', detail: 'no other firewall is in the way of guests' }
          : { state: 'degraded', detail: obstacles.join('; ') },
      remedy,
    };
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    return { id: 'forwarding', result: { state: 'missing', detail }, remedy };
  }
}
