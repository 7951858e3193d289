import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';

/**
 * Tells this machine and data directory from copies of them: the boot, which a copy of a virtual
 * machine does not share, and the directory itself. The same when the agent restarts; another
 * one after a reboot.
 */
export async function machineOf(dataDir: string): Promise<string> {
  const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const { dev, ino } = await stat(dataDir, { bigint: true });
  return createHash('sha256').update(`${boot} ${dev} ${ino}`).digest('hex');
}
