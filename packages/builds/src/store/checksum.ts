import type { FileHandle } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import type { Extent } from '../diff/capture.ts';

const CHUNK_BYTES = 1024 * 1024;

/**
 * CRC-32 over the extents of a file that are not all zeros, each preceded by its offset, in
 * chunks of 1 MiB aligned in the file. Holes and zeros count the same, so that a copy between
 * file systems keeps its checksum.
 */
export async function checksumSparse(
  file: FileHandle,
  size: number,
  extents: Iterable<Extent>,
): Promise<string> {
  const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
  const zeros = Buffer.alloc(CHUNK_BYTES);
  const label = Buffer.alloc(8);
  let checksum = 0;
  let next = 0;
  for (const extent of extents) {
    const end = Math.min(size, extent.offset + extent.length);
    let position = Math.max(next, extent.offset - (extent.offset % CHUNK_BYTES));
    for (; position < end; position += CHUNK_BYTES) {
      const { bytesRead } = await file.read(chunk, 0, CHUNK_BYTES, position);
      if (bytesRead === 0) break;
      if (chunk.compare(zeros, 0, bytesRead, 0, bytesRead) === 0) continue;
      label.writeBigUInt64LE(BigInt(position));
      checksum = crc32(chunk.subarray(0, bytesRead), crc32(label, checksum));
    }
    next = position;
  }
  return formatChecksum(checksum);
}

export function formatChecksum(checksum: number): string {
  return checksum.toString(16).padStart(8, '0');
}

/** CRC-32 of a whole file, read in chunks. */
export async function checksumFile(file: FileHandle): Promise<string> {
  const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
  let checksum = 0;
  for (let position = 0; ; ) {
    const { bytesRead } = await file.read(chunk, 0, CHUNK_BYTES, position);
    if (bytesRead === 0) return formatChecksum(checksum);
    checksum = crc32(chunk.subarray(0, bytesRead), checksum);
    position += bytesRead;
  }
}
