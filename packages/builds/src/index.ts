export { type Capture, type CaptureSource, captureMemory, type Extent } from './diff/capture.ts';
export { type DiffFile, MemoryReader } from './diff/memory-reader.ts';
export { BuildFormatError } from './errors.ts';
export {
  applyChanges,
  BLOCK_SIZE,
  BlockChange,
  type ChangeMap,
  Mapping,
  MappingBuilder,
  type Run,
  ZERO_INDEX,
  zeroMapping,
} from './header/mapping.ts';
export {
  HEADER_VERSION,
  type MemoryHeader,
  type ParseOptions,
  parseMemoryHeader,
  type StoredBlocks,
  writeMemoryHeader,
} from './header/memory-header.ts';
export {
  BUILD_FILES,
  type BuildFile,
  MANIFEST_VERSION,
  type Manifest,
  type Producer,
  parseManifest,
} from './manifest/manifest.ts';
export type {
  Build,
  BuildFiles,
  BuildStore,
  ManifestDraft,
  MemoryFile,
  Reference,
  ReferenceKind,
  References,
  StagedBuild,
  WorkingSets,
} from './store/build-store.ts';
export { LocalBuildStore, type LocalStoreOptions } from './store/local-store.ts';
export type { SparseFiles } from './store/sparse-files.ts';
export { isUuid, newBuildId, ZERO_BUILD } from './uuid.ts';
