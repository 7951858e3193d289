import {
  ensureGuestArtifacts,
  type GuestArtifacts,
  type ImageStore,
  type Progress,
} from '@torpor/images';
import type { Io } from '../io.ts';
import { printStatus } from '../output/progress.ts';

/** The image that a sandbox has unless told otherwise. */
export const BASE_IMAGE = 'base';

/**
 * Makes what a first sandbox needs, if the cache lacks it, with its progress on standard
 * error: kernel, initramfs, agent drive and the base image.
 */
export async function prepareGuest(
  io: Io,
  cacheDir: string,
  store: ImageStore,
): Promise<GuestArtifacts> {
  const onProgress = progressStatus(io);
  const artifacts = await ensureGuestArtifacts({ cacheDir, onProgress });
  await store.build(BASE_IMAGE, { onProgress });
  return artifacts;
}

export function progressStatus(io: Io): (progress: Progress) => void {
  return ({ artifact, message }) => printStatus(io, `${artifact}: ${message}`);
}
