import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { O_TMPFILE } from '@torpor/linux';
import { errnoName } from '../filesystem/errors.ts';
import type { ByteRange } from './range.ts';

/** Bodies up to this size are kept in memory; longer ones are staged on the disk. */
const IN_MEMORY_BYTES = 1024 * 1024;
const COPY_BYTES = 1024 * 1024;
/** The most that is buffered for a slow client. */
const SEND_BYTES = 256 * 1024;

/**
 * The complete content of an upload. Its destination is not touched before it is complete, so
 * an aborted upload leaves no trace.
 */
export interface Content extends AsyncDisposable {
  readonly size: number;
  /** The nameless file with it, on the destination's file system. */
  readonly file: FileHandle | undefined;
  chunks(): AsyncIterable<Buffer> | Iterable<Buffer>;
}

/**
 * Receives a body: into memory, or if it is longer than 1 MiB into a nameless file on
 * the file system of `directory`. Throws what reading throws, and the file system's
 * errors (`ENOSPC`, …).
 */
export async function receive(body: AsyncIterable<Buffer>, directory: string): Promise<Content> {
  let pending: Buffer[] = [];
  let pendingBytes = 0;
  let size = 0;
  let file: FileHandle | undefined;
  const flush = async (): Promise<void> => {
    file ??= await openNameless(directory);
    await file.appendFile(Buffer.concat(pending));
    pending = [];
    pendingBytes = 0;
  };
  try {
    for await (const chunk of body) {
      pending.push(chunk);
      pendingBytes += chunk.length;
      size += chunk.length;
      if (pendingBytes > IN_MEMORY_BYTES) await flush();
    }
    if (file !== undefined) await flush();
  } catch (error) {
    await file?.close();
    throw error;
  }
  const spooled = file;
  return {
    size,
    file: spooled,
    chunks: () => (spooled === undefined ? pending : readAll(spooled)),
    [Symbol.asyncDispose]: async () => spooled?.close(),
  };
}

/**
 * Reads bytes of an open file; what is appended meanwhile is not read. Throws if the file is
 * too short.
 */
export async function* readRange(
  file: FileHandle,
  { first, last }: ByteRange,
): AsyncGenerator<Buffer> {
  for (let position = first; position <= last; ) {
    const wanted = Math.min(SEND_BYTES, last - position + 1);
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(wanted), 0, wanted, position);
    if (bytesRead === 0) throw new Error(`the file has only ${position} bytes`);
    position += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** Reads an open file from its beginning to its end. */
export async function* readAll(file: FileHandle): AsyncGenerator<Buffer> {
  let position = 0;
  for (;;) {
    const { bytesRead, buffer } = await file.read(
      Buffer.allocUnsafe(COPY_BYTES),
      0,
      COPY_BYTES,
      position,
    );
    if (bytesRead === 0) return;
    position += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** The errors of open(2) where a file system knows no O_TMPFILE. */
const NO_TMPFILE = new Set(['ENOTSUP', 'EISDIR', 'EINVAL', 'ENOENT']);

async function openNameless(directory: string): Promise<FileHandle> {
  const mode = 0o644;
  try {
    return await open(directory, O_TMPFILE | constants.O_RDWR, mode);
  } catch (error) {
    if (!NO_TMPFILE.has(errnoName(error) ?? '')) throw error;
  }
  const path = join(directory, `.upload-${randomBytes(8).toString('hex')}`);
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
  const file = await open(path, flags, mode);
  try {
    await unlink(path);
  } catch (error) {
    await file.close();
    throw error;
  }
  return file;
}
