// What guests are made from: the kernels, drives and images in the cache. It loads without the agent.
export type { Image, ImageStore, Progress, PrunedArtifact } from '@torpor/images';
export { openImageStore, pruneCache } from './image-cache.ts';
export { prepareGuest } from './prepare-guest.ts';
