export { bundleScript } from './agent-drive/bundle.ts';
export { AGENT_DIRECTORY } from './agent-drive/layout.ts';
export {
  currentKeys,
  ensureGuestArtifacts,
  findGuestKernel,
  type GuestArtifactOptions,
  type GuestArtifacts,
  keysOf,
} from './artifacts.ts';
export {
  BASE_IMAGE,
  type Image,
  type ImageBuildOptions,
  ImageStore,
  type ImageStoreOptions,
} from './base-image/image-store.ts';
export { type CacheUser, listCacheUsers, registerCacheUser } from './cache/cache-users.ts';
export { type PrunedArtifact, type PruneOptions, pruneGuestArtifacts } from './cache/prune.ts';
export { createUpperDisk } from './disk/upper-disk.ts';
export { type KernelArgumentOptions, kernelArguments } from './kernel-arguments.ts';
export type { ArtifactKind, OnProgress, Progress } from './progress.ts';
export { isStaticProgram } from './required-tools.ts';
