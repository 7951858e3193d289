import { constants, copyFile, type FileHandle, open, rm } from 'node:fs/promises';
import { checked, libc, SystemError } from './libc.ts';

/** A part of a file that has data, in bytes. Between extents are holes, which read as zeros. */
export interface FileExtent {
  readonly offset: number;
  readonly length: number;
}

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const COPY_CHUNK_BYTES = 1024 * 1024;

const lseek = libc.func('int64_t lseek(int fd, int64_t offset, int whence)');

/**
 * The parts of a file that have data, in order (lseek(2), `SEEK_DATA` and `SEEK_HOLE`). On a
 * file system without holes there is one extent. The file's own read position moves; positioned
 * reads are not affected. Throws SystemError.
 */
export function* dataExtents(file: Pick<FileHandle, 'fd'>): Generator<FileExtent> {
  let position = 0;
  for (;;) {
    const offset = seek(file.fd, position, SEEK_DATA);
    if (offset === undefined) return;
    // There is always a hole at the end of the file.
    const end = seek(file.fd, offset, SEEK_HOLE);
    if (end === undefined) return;
    yield { offset, length: end - offset };
    position = end;
  }
}

/** ENXIO means that no data follows. */
function seek(fd: number, position: number, whence: number): number | undefined {
  try {
    return checked('lseek', Number(lseek(fd, position, whence)));
  } catch (error) {
    if (error instanceof SystemError && error.code === 'ENXIO') return undefined;
    throw error;
  }
}

export interface SparseCopy {
  /** Whether the file system shares the blocks of both files (reflink). */
  readonly shared: boolean;
  /** Bytes of data that were copied; 0 if shared. */
  readonly copiedBytes: number;
}

/**
 * Copies a file so that holes stay holes, sharing blocks where the file system
 * can (`FICLONE`). The copy replaces `to`; it is readable and writable by its owner
 * only; it is removed again if copying fails. It is not synced.
 */
export async function copySparse(from: string, to: string): Promise<SparseCopy> {
  await rm(to, { force: true });
  try {
    await copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE_FORCE);
    return { shared: true, copiedBytes: 0 };
  } catch (error) {
    if (!cannotShare(error)) throw error;
    await rm(to, { force: true });
  }
  try {
    return { shared: false, copiedBytes: await copyExtents(from, to) };
  } catch (error) {
    await rm(to, { force: true });
    throw error;
  }
}

async function copyExtents(from: string, to: string): Promise<number> {
  await using source = await open(from);
  await using target = await open(to, 'wx', 0o600);
  await target.truncate((await source.stat()).size);
  const chunk = Buffer.allocUnsafe(COPY_CHUNK_BYTES);
  let copiedBytes = 0;
  for (const extent of dataExtents(source)) {
    const end = extent.offset + extent.length;
    for (let position = extent.offset; position < end; ) {
      const length = Math.min(chunk.length, end - position);
      const { bytesRead } = await source.read(chunk, 0, length, position);
      if (bytesRead === 0) break;
      await writeFully(target, chunk.subarray(0, bytesRead), position);
      position += bytesRead;
      copiedBytes += bytesRead;
    }
  }
  return copiedBytes;
}

async function writeFully(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  let written = 0;
  while (written < bytes.length) {
    const rest = bytes.length - written;
    written += (await file.write(bytes, written, rest, position + written)).bytesWritten;
  }
}

const CANNOT_SHARE = new Set(['ENOTSUP', 'EXDEV', 'EINVAL', 'ENOTTY', 'ENOSYS']);

function cannotShare(error: unknown): boolean {
  return error instanceof Error && 'code' in error && CANNOT_SHARE.has(String(error.code));
}
