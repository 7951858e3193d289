import { readFile, statfs } from 'node:fs/promises';
import { TorporError } from '@torpor/protocol';
import type { HostContext } from '../host-context.ts';

const MIB = 1024 * 1024;

/**
 * Throws `no_hosts_available` if the host has less free memory than a new guest may use, or
 * less space on the tmpfs with guest RAM, if there is one: when overcommitted memory runs out,
 * the kernel kills VMMs.
 */
export async function requireFreeMemory(
  host: Pick<HostContext, 'driver' | 'layout'>,
  memoryMiB: number,
): Promise<void> {
  const available = await availableMemoryMiB();
  if (available !== undefined && available < memoryMiB) {
    throw new TorporError(
      'no_hosts_available',
      `The sandbox requests ${memoryMiB} MiB of memory; this host has ${available} MiB left.`,
    );
  }
  const { memoryFile } = host.driver.capabilities;
  if (memoryFile) await requireRoom(host.layout.memoryRoot, memoryMiB);
}

async function requireRoom(directory: string, memoryMiB: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  const room = Math.floor((bavail * bsize) / MIB);
  if (room >= memoryMiB) return;
  throw new TorporError(
    'no_hosts_available',
    `The sandbox requests ${memoryMiB} MiB of memory; the file system of ${directory} has ${room} MiB left.`,
    { remedy: 'Destroy or pause sandboxes that are not needed, or make the tmpfs larger.' },
  );
}

/** MemAvailable of proc_meminfo(5); undefined if the kernel does not report it. */
async function availableMemoryMiB(): Promise<number | undefined> {
  const text = await readFile('/proc/meminfo', 'utf8');
  const kib = /^MemAvailable:\s+(\d+) kB$/m.exec(text)?.[1];
  return kib === undefined ? undefined : Math.floor(Number(kib) / 1024);
}
