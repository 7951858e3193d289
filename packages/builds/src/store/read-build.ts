import { type FileHandle, open, readFile, stat } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { BuildFormatError } from '../errors.ts';
import { BLOCK_SIZE } from '../header/mapping.ts';
import { type MemoryHeader, parseMemoryHeader } from '../header/memory-header.ts';
import {
  BUILD_FILES,
  type Manifest,
  type ManifestFile,
  parseManifest,
} from '../manifest/manifest.ts';
import type { Build } from './build-store.ts';
import { checksumFile, checksumSparse, formatChecksum } from './checksum.ts';
import type { StoreLayout } from './layout.ts';
import type { SparseFiles } from './sparse-files.ts';

/** Reads and checks a build as {@link BuildStore.get} documents. Throws BuildFormatError. */
export async function readBuild(layout: StoreLayout, id: string): Promise<Build> {
  const origin = layout.file(id, BUILD_FILES.manifest);
  const manifest = parseManifest(await readText(origin, id), origin);
  if (manifest.id !== id) throw new BuildFormatError(origin, `belongs to build ${manifest.id}`);
  for (const file of manifest.files) await checkSize(layout.file(id, file.name), file);
  const header = await readHeader(layout, manifest);
  return { id, origin, manifest, header };
}

/** Compares a file of a build with its checksum. Throws BuildFormatError. */
export async function checkContent(
  layout: StoreLayout,
  id: string,
  file: ManifestFile,
  files: Pick<SparseFiles, 'dataExtents'>,
): Promise<void> {
  const path = layout.file(id, file.name);
  await using handle = await open(path);
  const actual = await checksumOf(file.name, handle, file.size, files);
  if (actual !== file.crc32) {
    throw new BuildFormatError(path, `damaged: CRC-32 ${actual} instead of ${file.crc32}`);
  }
}

/** The checksum of a file in a manifest. */
export function checksumOf(
  name: ManifestFile['name'],
  handle: FileHandle,
  size: number,
  { dataExtents }: Pick<SparseFiles, 'dataExtents'>,
): Promise<string> {
  if (name !== BUILD_FILES.disk) return checksumFile(handle);
  return checksumSparse(handle, size, dataExtents(handle));
}

async function readText(path: string, id: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new BuildFormatError(path, `build ${id} is missing or unreadable: ${String(error)}`);
  }
}

async function checkSize(path: string, file: ManifestFile): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) throw new BuildFormatError(path, 'missing');
  if (found.size !== file.size) {
    throw new BuildFormatError(path, `torn: ${found.size} bytes instead of ${file.size}`);
  }
}

async function readHeader(layout: StoreLayout, manifest: Manifest): Promise<MemoryHeader> {
  const path = layout.file(manifest.id, BUILD_FILES.header);
  const bytes = await readFile(path);
  const { builds } = parseMemoryHeader(bytes, { path }).mapping;
  const stored = await storedBlocks(layout, builds);
  const header = parseMemoryHeader(bytes, { path, storedBlocks: (id) => stored.get(id) });
  if (header.buildId !== manifest.id) {
    throw new BuildFormatError(path, `belongs to build ${header.buildId}`);
  }
  if (header.mapping.blockCount * BLOCK_SIZE !== manifest.memoryMiB * 2 ** 20) {
    throw new BuildFormatError(path, 'maps a different size of RAM than the manifest');
  }
  const recorded = manifest.files.find((file) => file.name === BUILD_FILES.header);
  const actual = formatChecksum(crc32(bytes));
  if (recorded !== undefined && recorded.crc32 !== actual) {
    throw new BuildFormatError(path, `damaged: CRC-32 ${actual} instead of ${recorded.crc32}`);
  }
  return header;
}

/** The number of blocks in the diff file of each build; builds without one are left out. */
export async function storedBlocks(
  layout: StoreLayout,
  ids: readonly string[],
): Promise<Map<string, number>> {
  const blocks = new Map<string, number>();
  for (const id of ids) {
    const found = await stat(layout.file(id, BUILD_FILES.memory)).catch(() => undefined);
    if (found !== undefined) blocks.set(id, Math.floor(found.size / BLOCK_SIZE));
  }
  return blocks;
}
