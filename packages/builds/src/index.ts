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
  MANIFEST_VERSION,
  type Manifest,
  type Producer,
  parseManifest,
} from './manifest/manifest.ts';
export {
  type Build,
  BuildStore,
  type ManifestDraft,
  StagedBuild,
  type StoreOptions,
} from './store/build-store.ts';
export { formatChecksum } from './store/checksum.ts';
export {
  type CompactionPolicy,
  compact,
  DEFAULT_COMPACTION,
  needsCompaction,
} from './store/compact.ts';
export type { Reference, ReferenceKind, References } from './store/references.ts';
export { isUuid, newBuildId, ZERO_BUILD } from './uuid.ts';
