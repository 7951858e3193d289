import { randomBytes } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { type Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { TorporError } from '@torpor/protocol';
import type { Sandbox } from '@torpor/sdk';
import type { TransferProgress } from '../output/progress.ts';
import { inspectRemote } from './remote-path.ts';

/** Streams a local file into a sandbox, and checks that all of it arrived. */
export async function uploadFile(
  sandbox: Sandbox,
  from: string,
  to: string,
  user: string | undefined,
  progress: TransferProgress,
): Promise<void> {
  const source = createReadStream(from, { highWaterMark: 256 * 1024 });
  const counted = source.compose(counter(progress)) as Readable;
  try {
    await sandbox.files.write(to, counted, { user });
  } finally {
    source.destroy();
  }
  const { size } = await inspectRemote(sandbox, to);
  if (size !== undefined && size !== progress.bytes) {
    throw new TorporError(
      'internal_error',
      `${to} has ${size} bytes in the sandbox where ${progress.bytes} were sent.`,
      { remedy: 'Copy it again; something else may be writing to it.' },
    );
  }
}

/**
 * Streams a file of a sandbox to `to`. It appears there when it is complete: a
 * copy that breaks off leaves what was there before.
 */
export async function downloadFile(
  sandbox: Sandbox,
  from: string,
  to: string,
  user: string | undefined,
  progress: TransferProgress,
): Promise<void> {
  const staging = join(dirname(to), `.${basename(to)}.${randomBytes(6).toString('hex')}.part`);
  try {
    const source = await sandbox.files.readStream(from, { user });
    await pipeline(source, counter(progress), createWriteStream(staging, { flags: 'wx' }));
    await rename(staging, to);
  } catch (error) {
    await rm(staging, { force: true });
    throw localError(error, to);
  }
}

/** Whether a local path is a directory, a file, or not there. Throws for what is neither. */
export async function inspectLocal(path: string): Promise<'directory' | 'file' | 'absent'> {
  const found = await stat(path).catch((error: unknown) => {
    if (isMissing(error)) return undefined;
    throw localError(error, path);
  });
  if (found === undefined) return 'absent';
  if (found.isDirectory()) return 'directory';
  if (found.isFile()) return 'file';
  throw new TorporError('invalid_request', `${path} is neither a file nor a directory.`);
}

/** An error of the local file system as a sentence. */
export function localError(reason: unknown, path: string): unknown {
  if (reason instanceof TorporError || !(reason instanceof Error) || !('code' in reason)) {
    return reason;
  }
  switch (reason.code) {
    case 'ENOENT':
      return new TorporError('not_found', `${path}: its directory does not exist.`);
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new TorporError('forbidden', `${path} may not be read or written: ${reason.message}`);
    default:
      return TorporError.from(reason);
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

/** Passes bytes through and counts them. */
export function counter(progress: TransferProgress): Transform {
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      progress.add(chunk.length);
      done(null, chunk);
    },
  });
}
