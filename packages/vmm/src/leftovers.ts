import type { ProcessIdentity } from '@torpor/linux';
import { killFirecrackerLeftovers } from './firecracker/leftovers.ts';
import { killQemuLeftovers } from './qemu/leftovers.ts';

/**
 * Kills every VMM, of any kind, that was started for a run directory, and removes what it
 * needed; idempotent. A driver that was killed between the start of a VMM and the moment when
 * its pid was recorded leaves one that only this finds. Returns the processes that were sent
 * SIGKILL.
 */
export async function killLeftovers(runDirectory: string): Promise<ProcessIdentity[]> {
  return [
    ...(await killQemuLeftovers(runDirectory)),
    ...(await killFirecrackerLeftovers(runDirectory)),
  ];
}
