export { type Capture, type CaptureSource, captureMemory, type Extent } from './diff/capture.ts';
export type { MemoryReader } from './diff/memory-reader.ts';
export { BuildFormatError } from './errors.ts';
export {
  applyChanges,
  BLOCK_SIZE,
  BlockChange,
  Mapping,
  ZERO_INDEX,
  zeroMapping,
} from './header/mapping.ts';
export {
  type MemoryHeader,
  type ParseOptions,
  parseMemoryHeader,
  type StoredBlocks,
  writeMemoryHeader,
} from './header/memory-header.ts';
export {
  BUILD_FILES,
  type BuildFileName,
  type Manifest,
  type Producer,
} from './manifest/manifest.ts';
export type {
  Build,
  BuildStore,
  ManifestDraft,
  MemoryFile,
  Reference,
  ReferenceKind,
  References,
  RestoreFiles,
  StagedBuild,
  WorkingSets,
} from './store/build-store.ts';
export { LocalBuildStore, type LocalStoreOptions } from './store/local-store.ts';
export { manifestTexts } from './store/manifest-texts.ts';
export type { SparseFiles } from './store/sparse-files.ts';
export { newBuildId } from './uuid.ts';
