/*
 * Internals of this package for tests that span packages. Production code may not import it
 * (tests/architecture).
 */
export { buildSources, proxyOptions } from './base-image/apt-sources.ts';
export { packageProgress } from './base-image/debian-base.ts';
export { computeKey, ensureArtifact } from './cache/artifact-cache.ts';
export { toolEnvironment } from './disk/ext4.ts';
export { KERNEL_RECIPE } from './kernel/kernel.ts';
