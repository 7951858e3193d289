import {
  closeSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { makeNode } from '@torpor/linux';
import {
  errnoOf,
  isFatal,
  type Omission,
  reasonOf,
  TreeError,
  type TreeErrorCode,
  treeError,
} from './errors.ts';
import { applyToFile, applyToSpecial, type MetadataOptions, type Xattr } from './metadata.ts';
import { join } from './paths.ts';
import { type Directory, moveFile, place } from './place.ts';
import {
  DATA_AT,
  decodeEntry,
  decodeJson,
  decodePosition,
  decodeXattr,
  type Entry,
  malformed,
  RECORD,
  readRecords,
  type TreeRecord,
} from './records.ts';
import { openSpecialFile, type Sink } from './special-file.ts';
import { Staging } from './staging.ts';
import { findTarget, type Target } from './target.ts';

export interface UnpackOptions extends MetadataOptions {
  /** A path here; see {@link findTarget}. */
  readonly destination: string;
  readonly onOmission: (omission: Omission) => void;
  /** Called with the directory that must be removed if this process is killed, before it is made. */
  readonly onStaging?: (path: Buffer) => void;
  /** Aborts a write to a FIFO, which may wait forever; otherwise the copy stops at the end of the chunks. */
  readonly signal?: AbortSignal;
}

const RECEIVED_KINDS = ['directory', 'file', 'special'] as const;

/** The result of a copy. */
export interface Received {
  readonly to: string;
  readonly kind: (typeof RECEIVED_KINDS)[number];
  /** Of the files' contents, holes included. */
  readonly bytes: number;
}

/**
 * Makes the tree that `packTree` sent. It is made aside and moved into place when it is
 * complete, so an error, or a truncated stream, leaves what was there before. A directory that
 * exists already keeps its mode and time and receives what is new. What cannot be made is
 * reported and left out; a full disk fails the copy. Nothing that is sent can be written
 * outside the destination. Throws TreeError.
 */
export async function unpackTree(
  chunks: AsyncIterable<Buffer>,
  options: UnpackOptions,
): Promise<Received> {
  const records = readRecords(chunks);
  for await (const record of records) {
    if (record.type === RECORD.failure) throw failureOf(record.body);
    if (record.type === RECORD.keepalive) continue;
    if (record.type !== RECORD.entry) throw malformed('it does not begin with a file');
    const root = decodeEntry(record.body);
    if (root.parent !== 0) throw malformed('it does not begin with its root');
    const target = findTarget(options.destination, root.name, root.kind === 'directory');
    return target.found === 'special'
      ? await writeThrough(target, root, records, options.signal)
      : await unpackInto(target, root, records, options);
  }
  throw cutOff();
}

function cutOff(): TreeError {
  return new TreeError('internal_error', 'The copy stopped before it was complete.');
}

const CODES: Record<TreeErrorCode, true> = {
  invalid_request: true,
  not_found: true,
  forbidden: true,
  conflict: true,
  disk_full: true,
  internal_error: true,
};

/** The error in a `failure` record. */
export function failureOf(body: Buffer): TreeError {
  const { code, message } = decodeJson(body);
  const known = (Object.keys(CODES) as TreeErrorCode[]).find((candidate) => candidate === code);
  return new TreeError(known ?? 'internal_error', String(message));
}

/** The omission in a record. */
export function omissionOf(body: Buffer): Omission {
  const { path, reason } = decodeJson(body);
  return { path: String(path), reason: String(reason) };
}

/** What a `received` record says. Throws TreeError. */
export function receivedOf(body: Buffer): Received {
  const { to, kind, bytes } = decodeJson(body);
  const known = RECEIVED_KINDS.find((candidate) => candidate === kind);
  if (typeof to !== 'string' || typeof bytes !== 'number' || known === undefined) {
    throw malformed('the last record is not a result');
  }
  return { to, kind: known, bytes };
}

async function unpackInto(
  target: Target,
  root: Entry,
  records: AsyncIterable<TreeRecord>,
  options: UnpackOptions,
): Promise<Received> {
  using staging = stagingFor(target, options.onStaging ?? (() => undefined));
  if (staging === undefined) return await writeThrough(target, root, records, options.signal);
  const tree = new StagedTree(staging.base, options);
  try {
    tree.entry({ ...root, name: ROOT_NAME });
    for await (const record of records) {
      if (record.type !== RECORD.complete) {
        tree.take(record);
        continue;
      }
      tree.close();
      if (tree.root === undefined) moveFile(join(staging.base, ROOT_NAME), target);
      else place(tree.root, target, options);
      const kind = root.kind === 'directory' ? 'directory' : 'file';
      return { to: target.path.toString(), kind, bytes: tree.bytes };
    }
    throw cutOff();
  } catch (error) {
    throw treeError(error, target.path.toString());
  } finally {
    tree.close();
  }
}

const ROOT_NAME = Buffer.from('copy');

/** Undefined if nothing can be made beside a file that may be written itself. */
function stagingFor(target: Target, onPath: (path: Buffer) => void): Staging | undefined {
  try {
    return new Staging(target.found === 'directory' ? target.path : target.parent, onPath);
  } catch (error) {
    const errno = errnoOf(error);
    const isDenied = errno === 'EACCES' || errno === 'EPERM' || errno === 'EROFS';
    if (target.found === 'file' && isDenied) return undefined;
    throw treeError(error, target.path.toString());
  }
}

const ZEROS = Buffer.alloc(64 * 1024);

/** Writes the content of a file to what is no regular file, or cannot be replaced: a device, a FIFO. */
async function writeThrough(
  target: Target,
  root: Entry,
  records: AsyncIterable<TreeRecord>,
  signal: AbortSignal | undefined,
): Promise<Received> {
  if (root.kind !== 'file') throw malformed('a file was expected');
  const path = target.path.toString();
  let file: Sink | undefined;
  let position = 0;
  const fill = async (end: number) => {
    while (position < end) {
      const zeros = ZEROS.subarray(0, Math.min(ZEROS.length, end - position));
      await file?.writeFile(zeros);
      position += zeros.length;
    }
  };
  try {
    file =
      target.found === 'file'
        ? await openEmptied(target.path)
        : await openSpecialFile(target.path, signal);
    for await (const { type, body } of records) {
      if (type === RECORD.data) {
        await fill(decodePosition(body));
        await file.writeFile(body.subarray(DATA_AT.body));
        position += body.length - DATA_AT.body;
      } else if (type === RECORD.endOfFile) await fill(decodePosition(body));
      else if (type === RECORD.failure) throw failureOf(body);
      else if (type === RECORD.complete) return { to: path, kind: 'special', bytes: position };
    }
    throw cutOff();
  } catch (error) {
    throw treeError(error, path);
  } finally {
    await file?.close();
  }
}

async function openEmptied(path: Buffer): Promise<Sink> {
  const file = await open(path, 'r+');
  await file.truncate(0);
  return file;
}

interface OpenFile {
  readonly fd: number;
  readonly path: Buffer;
  readonly shown: string;
  readonly entry: Entry;
  readonly xattrs: Xattr[];
}

/** A tree that is being made in its staging directory. */
class StagedTree {
  readonly #base: Buffer;
  readonly #options: UnpackOptions;
  /** By number. The first is what the root is in. */
  readonly #directories: (Directory | undefined)[] = [];
  /** Paths of entries that have further names. */
  readonly #links = new Map<number, Buffer>();
  #file: OpenFile | undefined;
  /** What extended attributes belong to. */
  #xattrs: Xattr[] = [];
  /** Of files that are complete. */
  bytes = 0;

  constructor(base: Buffer, options: UnpackOptions) {
    this.#base = base;
    this.#options = options;
  }

  /** The root, if it is a directory. */
  get root(): Directory | undefined {
    return this.#directories[1];
  }

  take({ type, body }: TreeRecord): void {
    switch (type) {
      case RECORD.entry: {
        const entry = decodeEntry(body);
        if (entry.parent === 0) throw malformed('it has two roots');
        this.entry(entry);
        return;
      }
      case RECORD.xattr:
        this.#xattrs.push(decodeXattr(body));
        return;
      case RECORD.data:
        if (this.#file !== undefined) this.#write(this.#file, body);
        return;
      case RECORD.endOfFile:
        if (this.#file !== undefined) this.#finish(this.#file, decodePosition(body));
        return;
      case RECORD.omission:
        this.#options.onOmission(omissionOf(body));
        return;
      case RECORD.failure:
        throw failureOf(body);
      case RECORD.keepalive:
        return;
      default:
        throw malformed('a record is of an unknown type');
    }
  }

  entry(entry: Entry): void {
    this.close();
    this.#xattrs = [];
    const isRoot = entry.parent === 0;
    const parent = this.#directories[entry.parent];
    if (!isRoot && entry.parent >= this.#directories.length) {
      throw malformed('a file is in a directory that was not sent');
    }
    // A directory that could not be made has been reported with all that it contains.
    const path = isRoot || parent ? join(parent?.path ?? this.#base, entry.name) : undefined;
    const shown = isRoot ? '' : shownPath(parent?.shown ?? '', entry.name);
    if (entry.kind === 'directory') {
      this.#directories.length = Math.max(1, this.#directories.length);
      const directory = path && this.#attempt(shown, () => this.#makeDirectory(path, shown, entry));
      this.#directories.push(directory);
      if (directory !== undefined) parent?.children.set(entry.name.toString('latin1'), directory);
    } else if (path !== undefined) {
      const made = this.#attempt(shown, () => this.#make(path, shown, entry));
      if (made && entry.kind !== 'link' && entry.link !== 0) this.#links.set(entry.link, path);
      if (isRoot && !made) throw new TreeError('internal_error', 'The file could not be created.');
    }
  }

  close(): void {
    if (this.#file === undefined) return;
    closeSync(this.#file.fd);
    this.#file = undefined;
  }

  #makeDirectory(path: Buffer, shown: string, entry: Entry): Directory {
    mkdirSync(path, { mode: 0o700 });
    const xattrs = this.#xattrs;
    return { path, shown, entry, xattrs, children: new Map() };
  }

  /** Makes anything but a directory. Returns whether it has a place now. */
  #make(path: Buffer, shown: string, entry: Entry): boolean {
    if (entry.kind === 'file') {
      this.#file = { fd: openSync(path, 'wx', 0o600), path, shown, entry, xattrs: this.#xattrs };
      return true;
    }
    if (entry.kind === 'link') {
      const first = this.#links.get(entry.link);
      if (first === undefined)
        this.#omit(shown, 'the file that it is a hard link to was not copied');
      else linkSync(first, path);
      return first !== undefined;
    }
    if (entry.kind === 'device' && !this.#options.archive) {
      this.#omit(shown, 'it is a device, which only --archive copies');
      return false;
    }
    if (entry.kind === 'symlink') symlinkSync(entry.target, path);
    else makeNode(path, entry.mode, entry.device);
    applyToSpecial(path, entry, this.#options);
    return true;
  }

  #write(file: OpenFile, body: Buffer): void {
    let position = decodePosition(body);
    for (let at = DATA_AT.body; at < body.length; ) {
      const written = writeSync(file.fd, body, at, body.length - at, position);
      at += written;
      position += written;
    }
  }

  #finish({ fd, path, shown, entry, xattrs }: OpenFile, size: number): void {
    this.#attempt(shown, () => {
      ftruncateSync(fd, size);
      applyToFile(path, fd, entry, xattrs, this.#options, (what) => this.#omit(shown, what));
    });
    this.bytes += size;
    this.close();
  }

  /**
   * Undefined, and an omission, if this entry cannot be made. Throws what every other entry
   * would fail with too.
   */
  #attempt<T>(shown: string, action: () => T): T | undefined {
    try {
      return action();
    } catch (error) {
      if (isFatal(error)) throw error;
      this.#omit(shown, reasonOf(error));
      return undefined;
    }
  }

  #omit(path: string, reason: string): void {
    this.#options.onOmission({ path, reason });
  }
}

function shownPath(parent: string, name: Buffer): string {
  return parent === '' ? name.toString() : `${parent}/${name}`;
}
