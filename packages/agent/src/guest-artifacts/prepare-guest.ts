import {
  BASE_IMAGE,
  ensureGuestArtifacts,
  type GuestArtifactOptions,
  type GuestArtifacts,
  type ImageStore,
} from '@torpor/images';

/**
 * Makes what a first sandbox needs, if the cache lacks it: kernel, initramfs, agent drive and
 * the base image. Throws `host_setup` for a tool that this machine lacks, and `disk_full`.
 */
export async function prepareGuest(
  store: ImageStore,
  options: GuestArtifactOptions,
): Promise<GuestArtifacts> {
  const artifacts = await ensureGuestArtifacts(options);
  const { onProgress } = options;
  await store.build(BASE_IMAGE, onProgress === undefined ? {} : { onProgress });
  return artifacts;
}
