import { TreeError } from './errors.ts';

/*
 * The stream that a tree of files is copied as: records of a type, a length and a body. Both
 * sides always have the same version, as the side that starts a copy supplies the program of
 * the other side. The reader validates everything: its input may come from a hostile sandbox.
 *
 * A tree is sent depth first. A directory gets the next number when it is reached, and entries
 * name their directory by number, so that no path is ever sent, let alone one that leads out of
 * the tree.
 */

export const RECORD = {
  /** An {@link Entry}. What follows, up to the next, belongs to it. */
  entry: 1,
  /** An extended attribute of the entry: length of the name (u16), name, value. */
  xattr: 2,
  /** A piece of a file: offset (u64), bytes. What is skipped is a hole. */
  data: 3,
  /** The end of a file: its size (u64). */
  endOfFile: 4,
  /** An Omission, as JSON. */
  omission: 5,
  /** The tree is complete. A stream without this record at its end is discarded. */
  complete: 6,
  /** Why there is no tree, or no more of it: `code` and `message`, as JSON. */
  failure: 7,
  /** Nothing: the sender is alive. */
  keepalive: 8,
  /** The receiver takes records from now on. */
  ready: 9,
  /** A {@link Received}, as JSON: the receiver has put the tree in its place. */
  received: 10,
} as const;

const HEADER_BYTES = 5;
/** The largest body: an extended attribute's value, or {@link DATA_BYTES}, with room to spare. */
const MAX_BODY_BYTES = 1024 * 1024;
/** Of one data record. */
export const DATA_BYTES = 448 * 1024;

const KINDS = ['directory', 'file', 'symlink', 'fifo', 'device', 'link'] as const;
/** `link` is a further name of an entry before it. */
export type Kind = (typeof KINDS)[number];

export interface Entry {
  readonly kind: Kind;
  /** Number of its directory; 0 for the root of the tree. */
  readonly parent: number;
  /** A single name. The root's may be `.`: only what is in it is wanted. */
  readonly name: Buffer;
  /** With the bits of the type, as stat(2) says it. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: bigint;
  /** Nanoseconds since 1970; more than 64 bits of them, as file systems know. */
  readonly mtime: bigint;
  readonly device: bigint;
  /** Of an entry with several names: the number by which `link`s refer to it. Else 0. */
  readonly link: number;
  /** Target of a symbolic link, else empty. */
  readonly target: Buffer;
}

export interface TreeRecord {
  readonly type: number;
  readonly body: Buffer;
}

export function encodeRecord(type: number, ...parts: readonly Uint8Array[]): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header[0] = type;
  header.writeUInt32BE(
    parts.reduce((sum, part) => sum + part.length, 0),
    1,
  );
  return Buffer.concat([header, ...parts]);
}

export function encodeJson(type: number, value: unknown): Buffer {
  return encodeRecord(type, Buffer.from(JSON.stringify(value)));
}

/** Fields of fixed size come first, then the name and the target. */
const ENTRY_BYTES = 1 + 4 + 4 + 4 + 4 + 8 + 8 + 4 + 8 + 4 + 2;

const NANOSECONDS = 1_000_000_000n;
const MAX_NAME_BYTES = 255;
const MAX_TARGET_BYTES = 4096;

export function encodeEntry(entry: Entry): Buffer {
  const fields = Buffer.alloc(ENTRY_BYTES);
  let at = fields.writeUInt8(KINDS.indexOf(entry.kind), 0);
  at = fields.writeUInt32BE(entry.parent, at);
  at = fields.writeUInt32BE(entry.mode, at);
  at = fields.writeUInt32BE(entry.uid, at);
  at = fields.writeUInt32BE(entry.gid, at);
  at = fields.writeBigUInt64BE(entry.size, at);
  const fraction = ((entry.mtime % NANOSECONDS) + NANOSECONDS) % NANOSECONDS;
  at = fields.writeBigInt64BE((entry.mtime - fraction) / NANOSECONDS, at);
  at = fields.writeUInt32BE(Number(fraction), at);
  at = fields.writeBigUInt64BE(entry.device, at);
  at = fields.writeUInt32BE(entry.link, at);
  fields.writeUInt16BE(entry.name.length, at);
  return encodeRecord(RECORD.entry, fields, entry.name, entry.target);
}

/** Throws TreeError for what no correct sender writes. */
export function decodeEntry(body: Buffer): Entry {
  if (body.length < ENTRY_BYTES) throw malformed('an entry is too short');
  const kind = KINDS[body.readUInt8(0)];
  if (kind === undefined) throw malformed('an entry is of an unknown kind');
  const nameLength = body.readUInt16BE(ENTRY_BYTES - 2);
  const name = Buffer.from(body.subarray(ENTRY_BYTES, ENTRY_BYTES + nameLength));
  const target = Buffer.from(body.subarray(ENTRY_BYTES + nameLength));
  const parent = body.readUInt32BE(1);
  checkName(name, nameLength, parent);
  if (target.includes(0) || target.length > MAX_TARGET_BYTES) {
    throw malformed('a symbolic link has an impossible target');
  }
  return {
    kind,
    parent,
    name,
    mode: body.readUInt32BE(5),
    uid: body.readUInt32BE(9),
    gid: body.readUInt32BE(13),
    size: body.readBigUInt64BE(17),
    mtime: body.readBigInt64BE(25) * NANOSECONDS + BigInt(body.readUInt32BE(33)),
    device: body.readBigUInt64BE(37),
    link: body.readUInt32BE(45),
    target,
  };
}

function checkName(name: Buffer, length: number, parent: number): void {
  const text = name.toString('latin1');
  const isOneName =
    name.length === length &&
    length > 0 &&
    length <= MAX_NAME_BYTES &&
    !/[/\0]/.test(text) &&
    text !== '..' &&
    (text !== '.' || parent === 0);
  if (!isOneName) {
    throw malformed(
      `a file has the name ${JSON.stringify(text)}, which leads out of its directory`,
    );
  }
}

export function encodeXattr(name: string, value: Buffer): Buffer {
  const nameBytes = Buffer.from(name, 'latin1');
  const length = Buffer.alloc(2);
  length.writeUInt16BE(nameBytes.length);
  return encodeRecord(RECORD.xattr, length, nameBytes, value);
}

export function decodeXattr(body: Buffer): { readonly name: string; readonly value: Buffer } {
  const length = body.length < 2 ? 0 : body.readUInt16BE(0);
  const name = body.toString('latin1', 2, 2 + length);
  if (length === 0 || body.length < 2 + length || name.includes('\0')) {
    throw malformed('an extended attribute has no name');
  }
  return { name, value: Buffer.from(body.subarray(2 + length)) };
}

function unsigned(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

/** Where the bytes of a data record begin in it, and where in its body. */
export const DATA_AT = { record: HEADER_BYTES + 8, body: 8 } as const;

/**
 * A data record of at most `length` bytes that `read` puts where it is told to, so that much
 * data need not be copied. Undefined if it has none.
 */
export function encodeData(
  offset: number,
  length: number,
  read: (into: Buffer, at: number, length: number) => number,
): Buffer | undefined {
  const record = Buffer.allocUnsafe(DATA_AT.record + length);
  const bytesRead = read(record, DATA_AT.record, length);
  if (bytesRead === 0) return undefined;
  record[0] = RECORD.data;
  record.writeUInt32BE(bytesRead + DATA_AT.body, 1);
  record.writeBigUInt64BE(BigInt(offset), HEADER_BYTES);
  return record.subarray(0, DATA_AT.record + bytesRead);
}

export function encodeEndOfFile(size: number): Buffer {
  return encodeRecord(RECORD.endOfFile, unsigned(size));
}

/** The offset or size that a record begins with. */
export function decodePosition(body: Buffer): number {
  const position = body.length < 8 ? -1n : body.readBigUInt64BE(0);
  if (position < 0n || position > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw malformed('a position in a file is out of range');
  }
  return Number(position);
}

/** The JSON of a record; its fields are not checked. */
export function decodeJson(body: Buffer): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(body.toString());
    if (typeof value === 'object' && value !== null) return { ...value };
  } catch {
    // Reported below.
  }
  throw malformed('a record is not valid JSON');
}

export function malformed(what: string): TreeError {
  return new TreeError('internal_error', `The received files are malformed: ${what}.`);
}

/** The records in a stream of chunks, which may be cut anywhere. Throws for one that is cut off at its end. */
export async function* readRecords(
  chunks: AsyncIterable<Buffer>,
): AsyncGenerator<TreeRecord, void> {
  for await (const whole of wholeRecords(chunks)) yield* recordsIn(whole);
}

/** The same bytes, cut between records only. */
export async function* wholeRecords(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
  let pending: Buffer[] = [];
  let available = 0;
  let wanted = HEADER_BYTES;
  for await (const chunk of chunks) {
    pending.push(chunk);
    available += chunk.length;
    if (available < wanted) continue;
    const bytes = pending.length === 1 ? chunk : Buffer.concat(pending);
    let end = 0;
    for (let next = recordEnd(bytes, 0); next <= bytes.length; next = recordEnd(bytes, end)) {
      end = next;
    }
    wanted = recordEnd(bytes, end) - end;
    if (end > 0) yield bytes.subarray(0, end);
    pending = [bytes.subarray(end)];
    available = bytes.length - end;
  }
  if (available > 0) throw malformed('the stream ends in the middle of a record');
}

/** The end of the record that begins at `at`, as far as it is known by now. */
function recordEnd(bytes: Buffer, at: number): number {
  if (bytes.length - at < HEADER_BYTES) return at + HEADER_BYTES;
  const length = bytes.readUInt32BE(at + 1);
  if (length > MAX_BODY_BYTES) throw malformed('a record is too long');
  return at + HEADER_BYTES + length;
}

export function* recordsIn(whole: Buffer): Generator<TreeRecord, void> {
  for (let at = 0; at < whole.length; ) {
    const end = recordEnd(whole, at);
    yield { type: whole[at] ?? 0, body: whole.subarray(at + HEADER_BYTES, end) };
    at = end;
  }
}
