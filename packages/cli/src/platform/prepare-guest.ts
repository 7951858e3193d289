import { ensureGuestArtifacts, type GuestArtifacts, type Progress } from '@torpor/images';
import type { Io } from '../io.ts';
import { news } from '../output/progress.ts';

/** Kernel, initramfs and agent drive, made if the cache lacks them, with news on standard error. */
export function prepareGuest(io: Io, cacheDir: string): Promise<GuestArtifacts> {
  return ensureGuestArtifacts({ cacheDir, onProgress: progressNews(io) });
}

export function progressNews(io: Io): (progress: Progress) => void {
  return ({ artifact, message }) => news(io, `${artifact}: ${message}`);
}
