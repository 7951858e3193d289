import { extname } from 'node:path';
import { promisify } from 'node:util';
import { constants, crc32, deflateRaw as deflateRawCallback } from 'node:zlib';

/*
 * Gzip for downloads over a fast network, where the processor is the bottleneck. So it uses
 * level 1, and incompressible content is not compressed: as a whole where that can be
 * determined beforehand, else block by block.
 *
 * createGzip() would deflate random bytes at a tenth of the speed at which they can be sent,
 * and yield them in pieces of 16 KiB, which Node 20's fetch processes in time quadratic in the
 * size of the file.
 */

/** The size of blocks, each compressed and sent in one piece. Matches are not found across blocks. */
const BLOCK_BYTES = 256 * 1024;
/** The sample that decides whether a block, or a file, is worth compressing. */
const SAMPLE_BYTES = 16 * 1024;
/** Saving less than an eighth is not worth the time. */
const WORTHWHILE = 7 / 8;
/** The longest stored block of RFC 1951, section 3.2.4. */
const STORED_BYTES = 0xffff;

/** Of these formats the beginning may be compressible; the bulk is not. */
const COMPRESSED_EXTENSIONS = new Set(
  (
    '7z aac apk avif br bz2 crx deb docx egg epub flac gif gz heic ipa jar jpeg jpg jxl lz4 lzma m4a m4v mkv mov ' +
    'mp3 mp4 npz nupkg odp ods odt ogg opus png pptx rar rpm tbz2 tgz txz tzst vsix war webm webp whl woff ' +
    'woff2 xlsx xz zip zst'
  )
    .split(' ')
    .map((extension) => `.${extension}`),
);

/** Whether a file that begins with `head` is worth compressing. */
export async function isCompressible(path: string, head: Buffer): Promise<boolean> {
  if (COMPRESSED_EXTENSIONS.has(extname(path).toLowerCase())) return false;
  return shrinks(head);
}

/** The bytes as one gzip member (RFC 1952), a piece for each block. */
export async function* gzip(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  yield Buffer.from([0x1f, 0x8b, DEFLATE, 0, 0, 0, 0, 0, FASTEST, UNIX]);
  let checksum = 0;
  let size = 0;
  for await (const chunk of source) {
    for (let at = 0; at < chunk.length; at += BLOCK_BYTES) {
      const block = chunk.subarray(at, at + BLOCK_BYTES);
      checksum = crc32(block, checksum);
      size += block.length;
      yield await deflateOrStore(block);
    }
  }
  const trailer = Buffer.alloc(LAST_BLOCK.length + 8);
  LAST_BLOCK.copy(trailer);
  trailer.writeUInt32LE(checksum, LAST_BLOCK.length);
  trailer.writeUInt32LE(size % 2 ** 32, LAST_BLOCK.length + 4);
  yield trailer;
}

/** Header fields CM, XFL and OS. */
const DEFLATE = 8;
const FASTEST = 4;
const UNIX = 3;
/** An empty stored block, marked as the last one. */
const LAST_BLOCK = Buffer.from([1, 0, 0, 0xff, 0xff]);

const deflateRaw = promisify(deflateRawCallback);

/** Deflate blocks that begin and end at a byte boundary, so that others can follow. */
async function deflateOrStore(block: Buffer): Promise<Buffer> {
  if (!(await shrinks(block))) return store(block);
  const deflated = await deflate(block);
  return deflated.length < block.length ? deflated : store(block);
}

async function shrinks(bytes: Buffer): Promise<boolean> {
  const sample = bytes.subarray(0, SAMPLE_BYTES);
  return (await deflate(sample)).length < sample.length * WORTHWHILE;
}

function deflate(bytes: Buffer): Promise<Buffer> {
  return deflateRaw(bytes, {
    level: constants.Z_BEST_SPEED,
    finishFlush: constants.Z_SYNC_FLUSH,
    // Large enough for the whole result, which is returned in one piece.
    chunkSize: Math.max(constants.Z_MIN_CHUNK, bytes.length),
  });
}

function store(bytes: Buffer): Buffer {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += STORED_BYTES) {
    const piece = bytes.subarray(at, at + STORED_BYTES);
    const header = Buffer.alloc(5);
    header.writeUInt16LE(piece.length, 1);
    header.writeUInt16LE(piece.length ^ 0xffff, 3);
    pieces.push(header, piece);
  }
  return Buffer.concat(pieces);
}
