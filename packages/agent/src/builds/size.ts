import { stat } from 'node:fs/promises';
import { BUILD_FILES } from '@torpor/builds';
import type { HostContext } from '../host-context.ts';

/** What st_blocks of stat(2) counts. */
const SECTOR_BYTES = 512;

/** Bytes that the files of a build occupy. */
export async function sizeOfBuild(host: HostContext, buildId: string): Promise<number> {
  let sectors = 0;
  for (const file of Object.values(BUILD_FILES)) {
    const path = host.snapshots.builds.path(buildId, file);
    sectors += (await stat(path).catch(() => undefined))?.blocks ?? 0;
  }
  return sectors * SECTOR_BYTES;
}
