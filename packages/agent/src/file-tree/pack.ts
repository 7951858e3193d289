import {
  type BigIntStats,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  statSync,
} from 'node:fs';
import { basename } from 'node:path';
import { dataExtents, linkXattr, linkXattrNames } from '@torpor/linux';
import { errnoOf, reasonOf, TreeError, treeError } from './errors.ts';
import {
  DATA_AT,
  DATA_BYTES,
  type Entry,
  encodeData,
  encodeEndOfFile,
  encodeEntry,
  encodeJson,
  encodeRecord,
  encodeXattr,
  type Kind,
  RECORD,
} from './records.ts';
import { readSpecialFile } from './special-file.ts';

export interface PackOptions {
  /** Also send device nodes, ACLs, capabilities and whatever other extended attributes there are. */
  readonly archive: boolean;
}

const BATCH_BYTES = 448 * 1024;
/** `st_blocks` counts in these, whatever the file system's own blocks are. */
const STAT_BLOCK_BYTES = 512n;
/** Labels that the kernel assigns by its own rules: not the user's, and not copied. */
const KERNEL_XATTR = /^(?:security\.(?:selinux|apparmor|ima|evm)|trusted\.|system\.(?!posix_acl_))/;
/** What users may set on their own files, and what has no meaning beyond the file's content. */
const USER_XATTR = /^user\./;

interface Level {
  readonly path: Buffer;
  /** This directory's number in the records. */
  readonly id: number;
  readonly names: readonly Buffer[];
  next: number;
}

/**
 * A file, or a directory with all that is in it, as a stream of whole records (`records.ts`),
 * in chunks of some 256 KiB. `path` itself may be a symbolic link to it; symbolic links in the
 * tree are sent as such. What cannot be read is left out and named in the stream; a
 * file is sent as long as it was when it was opened. Throws TreeError if `path` itself
 * cannot be read.
 */
export async function* packTree(path: string, options: PackOptions): AsyncGenerator<Buffer, void> {
  const packer = new Packer(options);
  const root = Buffer.from(path);
  let stats: BigIntStats;
  try {
    stats = statSync(root, { bigint: true });
    if (path.endsWith('/') && !stats.isDirectory()) {
      throw new TreeError('not_found', `${path}: not a directory`);
    }
  } catch (error) {
    throw treeError(error, path);
  }
  const name = Buffer.from(rootName(path));
  if (stats.isDirectory()) yield* packer.directory(root, name, stats);
  else if (stats.isFile()) yield* packer.singleFile(root, name, stats);
  else if (stats.isSocket()) {
    throw new TreeError('invalid_request', `${path} is a socket, which cannot be copied.`);
  } else yield* packer.content(path, name, stats);
  yield packer.finish();
}

/** The name that a copy gets where the destination is a directory; `.` if only the contents are meant. */
function rootName(path: string): string {
  const name = basename(path);
  return name === '' || name === '..' || /(?:^|\/)\.\/*$/.test(path) ? '.' : name;
}

class Packer {
  readonly #options: PackOptions;
  #batch: Buffer[] = [];
  #batchBytes = 0;
  #directories = 0;
  /** Entries with several names that were sent, by device and inode. */
  readonly #links = new Map<string, number>();
  #rootLength = 0;

  constructor(options: PackOptions) {
    this.#options = options;
  }

  /** A directory whose own entries cannot be read is an error, one below it an omission. */
  async *directory(path: Buffer, name: Buffer, stats: BigIntStats): AsyncGenerator<Buffer, void> {
    this.#rootLength = path.length;
    const root = this.#addDirectory(path, name, 0, stats);
    if (root === undefined) throw new TreeError('forbidden', `${path}: permission denied`);
    const levels = [root];
    for (let level = levels.at(-1); level !== undefined; level = levels.at(-1)) {
      const child = level.names[level.next++];
      if (child === undefined) {
        levels.pop();
        continue;
      }
      const below = yield* this.#member(level, child);
      if (below !== undefined) levels.push(below);
    }
  }

  *singleFile(path: Buffer, name: Buffer, stats: BigIntStats): Generator<Buffer, void> {
    this.#rootLength = path.length;
    let fd: number;
    try {
      fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      throw treeError(error, path.toString());
    }
    yield* this.#file(path, name, 0, stats, fd);
  }

  /** What can be read from a FIFO or a device, as a regular file. */
  async *content(path: string, name: Buffer, stats: BigIntStats): AsyncGenerator<Buffer, void> {
    const mode = constants.S_IFREG | (Number(stats.mode) & 0o666);
    const mtime = BigInt(Date.now()) * 1_000_000n;
    this.#add(encodeEntry({ ...entryOf('file', 0, name, stats), mode, mtime, size: 0n, link: 0 }));
    let size = 0;
    try {
      for await (const chunk of readSpecialFile(path, DATA_BYTES)) {
        const bytes = chunk as Buffer;
        const record = encodeData(size, bytes.length, (into, at) => bytes.copy(into, at));
        if (record !== undefined) this.#add(record);
        size += bytes.length;
        // The next may take long.
        yield this.#take();
      }
    } catch (error) {
      throw treeError(error, path);
    }
    this.#add(encodeEndOfFile(size));
  }

  /** The rest of the stream. */
  finish(): Buffer {
    this.#add(encodeRecord(RECORD.complete));
    return this.#take();
  }

  /** Sends one name of a directory. Returns it if it is a directory itself, whose names come next. */
  *#member(parent: Level, name: Buffer): Generator<Buffer, Level | undefined> {
    const path = Buffer.concat([parent.path, SLASH, name]);
    try {
      const stats = lstatSync(path, { bigint: true });
      if (stats.isDirectory()) {
        const below = this.#addDirectory(path, name, parent.id, stats);
        yield* this.#full();
        return below;
      }
      if (this.#addLink(name, parent.id, stats)) return undefined;
      if (stats.isFile()) yield* this.#openAndSend(path, name, parent.id, stats);
      else this.#addSpecial(path, name, parent.id, stats);
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
      const isRemoved = errnoOf(error) === 'ENOENT';
      this.#omit(path, isRemoved ? 'it was removed during the copy' : reasonOf(error));
    }
    yield* this.#full();
    return undefined;
  }

  #addDirectory(path: Buffer, name: Buffer, parent: number, stats: BigIntStats): Level | undefined {
    const id = ++this.#directories;
    this.#add(encodeEntry(entryOf('directory', parent, name, stats)));
    this.#addXattrs(path);
    try {
      const names = readdirSync(path, { encoding: 'buffer' }).sort(Buffer.compare);
      return { path, id, names, next: 0 };
    } catch (error) {
      this.#omit(path, `its contents: ${reasonOf(error)}`);
      return undefined;
    }
  }

  /** Whether the file is a further name of one that was sent already. */
  #addLink(name: Buffer, parent: number, stats: BigIntStats): boolean {
    const link = this.#links.get(identity(stats));
    if (stats.nlink < 2n || link === undefined) return false;
    this.#add(encodeEntry({ ...entryOf('link', parent, name, stats), link }));
    return true;
  }

  #numberOf(stats: BigIntStats): number {
    if (stats.nlink < 2n) return 0;
    const number = this.#links.size + 1;
    this.#links.set(identity(stats), number);
    return number;
  }

  #addSpecial(path: Buffer, name: Buffer, parent: number, stats: BigIntStats): void {
    const isDevice = stats.isBlockDevice() || stats.isCharacterDevice();
    if (stats.isSocket() || (isDevice && !this.#options.archive)) {
      this.#omit(path, isDevice ? 'it is a device, which only --archive copies' : 'it is a socket');
      return;
    }
    const kind = stats.isSymbolicLink() ? 'symlink' : isDevice ? 'device' : 'fifo';
    const target = kind === 'symlink' ? readlinkSync(path, { encoding: 'buffer' }) : NOTHING;
    const link = this.#numberOf(stats);
    this.#add(encodeEntry({ ...entryOf(kind, parent, name, stats), link, target }));
  }

  *#openAndSend(
    path: Buffer,
    name: Buffer,
    parent: number,
    stats: BigIntStats,
  ): Generator<Buffer, void> {
    // The file may have been replaced by a link or a FIFO meanwhile.
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    yield* this.#file(path, name, parent, stats, openSync(path, flags));
  }

  *#file(
    path: Buffer,
    name: Buffer,
    parent: number,
    found: BigIntStats,
    fd: number,
  ): Generator<Buffer, void> {
    try {
      const stats = fstatSync(fd, { bigint: true });
      if (!stats.isFile()) return this.#omit(path, 'it was replaced during the copy');
      const link = this.#numberOf(found);
      this.#add(encodeEntry({ ...entryOf('file', parent, name, stats), link }));
      this.#addXattrs(path);
      const size = yield* this.#data(path, fd, stats);
      this.#add(encodeEndOfFile(size));
      const now = fstatSync(fd, { bigint: true });
      if (now.size !== stats.size || now.mtimeNs !== stats.mtimeNs) {
        this.#omit(path, 'it changed during the copy');
      }
    } finally {
      closeSync(fd);
    }
  }

  /**
   * Sends the file's content up to the size that it had. Returns its current length, at most
   * that. The files of /proc have no size; such a one is read to its end.
   */
  *#data(path: Buffer, fd: number, stats: BigIntStats): Generator<Buffer, number> {
    const size = stats.size === 0n ? Number.POSITIVE_INFINITY : Number(stats.size);
    const isSparse = stats.blocks * STAT_BLOCK_BYTES < stats.size;
    const extents = isSparse ? dataExtents({ fd }) : [{ offset: 0, length: size }];
    for (const { offset, length } of extents) {
      const end = Math.min(size, offset + length);
      for (let position = offset; position < end; ) {
        const length = Math.min(DATA_BYTES, end - position);
        let record: Buffer | undefined;
        try {
          record = encodeData(position, length, (into, at) =>
            readSync(fd, into, at, length, position),
          );
        } catch (error) {
          this.#omit(path, `the part from byte ${position} on: ${reasonOf(error)}`);
          return position;
        }
        // It was truncated meanwhile.
        if (record === undefined) return position;
        this.#add(record);
        position += record.length - DATA_AT.record;
        yield* this.#full();
      }
    }
    return Math.min(size, Number(fstatSync(fd, { bigint: true }).size));
  }

  #addXattrs(path: Buffer): void {
    let names: string[] = [];
    try {
      names = linkXattrNames(path).filter((name) => !KERNEL_XATTR.test(name));
      for (const name of names) {
        if (this.#options.archive || USER_XATTR.test(name)) {
          this.#add(encodeXattr(name, linkXattr(path, name)));
        } else {
          this.#omit(path, `its attribute ${name}, which only --archive copies`);
        }
      }
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
      this.#omit(path, `its extended attributes: ${reasonOf(error)}`);
    }
  }

  #omit(path: Buffer, reason: string): void {
    const below = path.subarray(this.#rootLength + 1).toString();
    this.#add(encodeJson(RECORD.omission, { path: below, reason }));
  }

  #add(record: Buffer): void {
    this.#batch.push(record);
    this.#batchBytes += record.length;
  }

  *#full(): Generator<Buffer, void> {
    if (this.#batchBytes >= BATCH_BYTES) yield this.#take();
  }

  #take(): Buffer {
    const [first] = this.#batch;
    const isOne = first !== undefined && this.#batch.length === 1;
    const batch = isOne ? first : Buffer.concat(this.#batch);
    this.#batch = [];
    this.#batchBytes = 0;
    return batch;
  }
}

const SLASH = Buffer.from('/');
const NOTHING = Buffer.alloc(0);

function identity({ dev, ino }: BigIntStats): string {
  return `${dev}:${ino}`;
}

function entryOf(kind: Kind, parent: number, name: Buffer, stats: BigIntStats): Entry {
  return {
    kind,
    parent,
    name,
    mode: Number(stats.mode),
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    size: stats.size,
    mtime: stats.mtimeNs,
    device: stats.rdev,
    link: 0,
    target: NOTHING,
  };
}
