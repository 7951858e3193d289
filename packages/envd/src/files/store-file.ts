import { constants, type Stats } from 'node:fs';
import { type FileHandle, lstat, open, readlink, realpath, stat, unlink } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { linkOpenFile, reserveBlocks } from '@torpor/linux';
import { ensureDirectories, removeDirectories } from '../filesystem/directories.ts';
import { errnoName, isMissing } from '../filesystem/errors.ts';
import { replaceMetadata } from '../filesystem/metadata.ts';
import type { User } from '../users.ts';
import { type Content, receive } from './content.ts';
import { HttpError } from './http-error.ts';

/*
 * How an upload becomes a file.
 *
 * The body is received completely before the destination is touched: in memory, or in a
 * nameless file that the kernel removes if we exit. Then
 *
 * - a new file is created in one step, by linking the nameless file, or by writing it from
 *   memory; if that fails it is removed again;
 * - an existing file is overwritten in place, so that hard links, symbolic links, mounts and open
 *   descriptors still refer to the same file, and its mode is kept. Its
 *   blocks are reserved first: a full disk is found before the old content is touched.
 *   (Renaming a new file over it would be simpler, and would break all of these; writing
 *   while receiving would not need space for both contents, and would leave half of each when the
 *   client disconnects.)
 *
 * Either way the directory's watchers see CREATE or WRITE of the file's own name, and no other
 * names. As in E2B the file then belongs to the user.
 */

export interface StoreOptions {
  readonly user: User;
  readonly metadata: Readonly<Record<string, string>>;
}

/** The kernel's limit of symbolic links. */
const MAX_LINKS = 40;

/**
 * Stores a body as the file at an absolute path; missing parents are created for the user. On
 * failure, an existing file is unchanged, and no new file or parents are left. Throws HttpError
 * 400 for a path that is a directory or no regular file, and the errors of reading and of the
 * file system (`ENOSPC`, …).
 */
export async function storeFile(
  path: string,
  body: AsyncIterable<Buffer>,
  options: StoreOptions,
): Promise<void> {
  const destination = await followDanglingLinks(path);
  await statRegular(destination);
  const directory = dirname(destination);
  const made = await ensureDirectories(directory, options.user);
  try {
    await using content = await receive(body, directory);
    await withPathLock(destination, async () => {
      // Another upload that made the parents may have failed, and removed them again.
      made.push(...(await ensureDirectories(directory, options.user)));
      await place(destination, content, options);
    });
  } catch (error) {
    await removeDirectories(made);
    throw error;
  }
}

async function place(path: string, content: Content, options: StoreOptions): Promise<void> {
  if ((await statRegular(path)) === undefined && (await create(path, content, options))) return;
  await overwrite(path, content, options);
}

/** Returns false if something exists at the path by now. */
async function create(path: string, content: Content, options: StoreOptions): Promise<boolean> {
  try {
    const linked = content.file !== undefined && (await createByLink(path, content.file, options));
    if (!linked) await createByWriting(path, content, options);
    return true;
  } catch (error) {
    if (errnoName(error) === 'EEXIST') return false;
    throw error;
  }
}

async function createByWriting(
  path: string,
  content: Content,
  options: StoreOptions,
): Promise<void> {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
  const file = await open(path, flags, 0o644);
  try {
    await file.chown(options.user.uid, options.user.gid);
    setMetadata(file, options.metadata);
    await writeAll(file, content);
  } catch (error) {
    await unlink(path);
    throw error;
  } finally {
    await file.close();
  }
}

/** Why linkat(2) may refuse: the nameless file was unlinked, or its file system cannot do it. */
const UNLINKABLE = new Set(['ENOENT', 'EXDEV', 'ENOTSUP', 'EPERM']);

/** Returns false if the file cannot be linked. */
async function createByLink(
  path: string,
  file: FileHandle,
  { user, metadata }: StoreOptions,
): Promise<boolean> {
  await file.chown(user.uid, user.gid);
  setMetadata(file, metadata);
  try {
    linkOpenFile(file.fd, path);
  } catch (error) {
    if (UNLINKABLE.has(errnoName(error) ?? '')) return false;
    throw error;
  }
  await touchContent(path).catch(() => undefined);
  return true;
}

/**
 * Writes the first byte again. Watchers of the directory have got a CREATE; a write through the
 * file's name makes them get a WRITE too. If the file was removed by now, there is nothing to
 * report.
 */
async function touchContent(path: string): Promise<void> {
  await using file = await open(path, constants.O_RDWR | constants.O_NOFOLLOW);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(1), 0, 1, 0);
  await file.write(buffer, 0, bytesRead, 0);
}

async function overwrite(path: string, content: Content, options: StoreOptions): Promise<void> {
  await using file = await open(path, constants.O_WRONLY | constants.O_NONBLOCK);
  const { uid, gid } = assertRegular(path, await file.stat());
  reserveBlocks(file.fd, content.size);
  setMetadata(file, options.metadata);
  const { user } = options;
  if (uid !== user.uid || gid !== user.gid) await file.chown(user.uid, user.gid);
  await writeAll(file, content);
  await file.truncate(content.size);
}

function setMetadata(file: FileHandle, metadata: Readonly<Record<string, string>>): void {
  try {
    replaceMetadata(file.fd, metadata);
  } catch (error) {
    if (errnoName(error) !== 'ENOTSUP') throw error;
    throw new HttpError(400, 'the file system of this path cannot keep metadata', error);
  }
}

/** Writes from the beginning of a newly opened file; without positions, which proc does not support. */
async function writeAll(file: FileHandle, content: Content): Promise<void> {
  for await (const chunk of content.chunks()) {
    for (let offset = 0; offset < chunk.length; ) {
      const { bytesWritten } = await file.write(chunk, offset, chunk.length - offset, null);
      offset += bytesWritten;
    }
  }
}

async function statRegular(path: string): Promise<Stats | undefined> {
  try {
    return assertRegular(path, await stat(path));
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

function assertRegular(path: string, stats: Stats): Stats {
  if (stats.isDirectory()) throw new HttpError(400, `path is a directory: ${path}`);
  if (!stats.isFile()) throw new HttpError(400, `path is not a regular file: ${path}`);
  return stats;
}

/** The path at which to create a new file for a path that may be a dangling link. */
async function followDanglingLinks(path: string): Promise<string> {
  let current = path;
  for (let links = 0; links < MAX_LINKS; links++) {
    try {
      return await realpath(current);
    } catch (error) {
      if (!isMissing(error)) throw error;
    }
    const isLink = await lstat(current).then(
      (stats) => stats.isSymbolicLink(),
      () => false,
    );
    if (!isLink) return current;
    const directory = await realpath(dirname(current));
    current = resolve(directory, await readlink(current));
  }
  throw new HttpError(400, `too many symbolic links: ${path}`);
}

const locks = new Map<string, Promise<void>>();

/** Serialises uploads to one path, so that they do not mix. */
async function withPathLock<T>(path: string, work: () => Promise<T>): Promise<T> {
  const before = locks.get(path) ?? Promise.resolve();
  const mine = before.then(work);
  const settled = mine.then(
    () => undefined,
    () => undefined,
  );
  locks.set(path, settled);
  try {
    return await mine;
  } finally {
    if (locks.get(path) === settled) locks.delete(path);
  }
}
