import { constants } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Omission } from './errors.ts';
import { packTree } from './pack.ts';
import {
  type Entry,
  encodeData,
  encodeEndOfFile,
  encodeEntry,
  encodeJson,
  encodeRecord,
  encodeXattr,
  RECORD,
} from './records.ts';
import { unpackTree } from './unpack.ts';

/*
 * What a correct sender sends is tested end to end (tests/cli/cp.host.test.ts). These tests
 * send what a hostile or a broken one might.
 */

let root: string;
let destination: string;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'torpor-unpack-'));
  await mkdir(join(root, 'into'));
  destination = join(root, 'into/copy');
});
afterEach(() => rm(root, { recursive: true }));

const omissions: Omission[] = [];

async function unpack(...records: readonly Buffer[]) {
  omissions.length = 0;
  const stream = (async function* () {
    yield* records;
  })();
  return await unpackTree(stream, {
    destination,
    archive: false,
    keepSetId: false,
    onOmission: (omission) => omissions.push(omission),
  });
}

const TYPES = {
  directory: constants.S_IFDIR,
  file: constants.S_IFREG,
  symlink: constants.S_IFLNK,
  fifo: constants.S_IFIFO,
  device: constants.S_IFCHR,
  link: constants.S_IFREG,
};

function entry(kind: Entry['kind'], parent: number, name: string, more: Partial<Entry> = {}) {
  const mode = TYPES[kind] | 0o755;
  const common = { kind, parent, mode, name: Buffer.from(name), target: Buffer.alloc(0) };
  const zero = { uid: 0, gid: 0, size: 0n, mtime: 0n, device: 0n, link: 0 };
  return encodeEntry({ ...common, ...zero, ...more });
}

function data(offset: number, text: string): Buffer {
  const bytes = Buffer.from(text);
  return encodeData(offset, bytes.length, (into, at) => bytes.copy(into, at)) ?? Buffer.alloc(0);
}

const directory = entry('directory', 0, 'tree');
const file = entry('file', 0, 'file');
const complete = encodeRecord(RECORD.complete);

async function expectNothing() {
  expect(await readdir(root)).toEqual(['into']);
  expect(await readdir(join(root, 'into'))).toEqual([]);
}

test.each([
  ['leads up', [directory, entry('file', 1, '..')]],
  ['has a slash', [directory, entry('file', 1, '../escaped')]],
  ['is absolute', [directory, entry('file', 1, '/escaped')]],
  ['is empty', [directory, entry('file', 1, '')]],
  ['is its own directory', [directory, entry('directory', 1, '.')]],
  ['contains a NUL', [directory, entry('file', 1, 'a\0b')]],
  ['is too long', [directory, entry('file', 1, 'n'.repeat(256))]],
])('refuses a name that %s', async (_, records) => {
  await expect(unpack(...records, complete)).rejects.toThrow('leads out of its directory');
  await expectNothing();
});

test.each([
  ['nothing', []],
  ['no root', [complete]],
  ['no end', [directory, entry('directory', 1, 'sub')]],
  ['half a record', [directory, complete.subarray(0, 3)]],
  ['two roots', [directory, file, complete]],
  ['a directory that was not sent', [directory, entry('file', 7, 'x'), complete]],
  ['a record of an unknown type', [directory, encodeRecord(99), complete]],
  ['a record of gigabytes', [directory, Buffer.from([RECORD.data, 0xff, 0, 0, 0, 0])]],
  ['an entry of an unknown kind', [encodeRecord(RECORD.entry, Buffer.alloc(60, 0xff))]],
  ['an entry that is cut off', [encodeRecord(RECORD.entry, Buffer.alloc(9))]],
  ['a position beyond all files', [file, encodeRecord(RECORD.data, Buffer.alloc(9, 0xff))]],
  ['an attribute without a name', [file, encodeRecord(RECORD.xattr, Buffer.alloc(1)), complete]],
  ['no JSON', [directory, encodeRecord(RECORD.omission, Buffer.from('x')), complete]],
  ['an error', [directory, encodeJson(RECORD.failure, { code: 'forbidden', message: 'No.' })]],
])('a stream with %s fails and leaves nothing', async (_, records) => {
  await expect(unpack(...records)).rejects.toMatchObject({ name: 'TreeError' });
  await expectNothing();
});

test('nothing is written through a link that the stream brings', async () => {
  const link = entry('symlink', 1, 'sub', { target: Buffer.from(root) });
  await unpack(
    directory,
    link,
    entry('directory', 1, 'sub'),
    entry('file', 2, 'escaped'),
    data(0, 'x'),
    encodeEndOfFile(1),
    link,
    entry('file', 1, 'sub'),
    complete,
  );
  expect(await readdir(root)).toEqual(['into']);
  expect(await readdir(destination)).toEqual(['sub']);
  expect(omissions).toEqual([
    { path: 'sub', reason: 'something with that name exists' },
    { path: 'sub', reason: 'something with that name exists' },
    { path: 'sub', reason: 'something with that name exists' },
  ]);
});

test('a hard link to a file that was not sent is left out', async () => {
  await unpack(directory, entry('link', 1, 'hard', { link: 5 }), complete);
  expect(await readdir(destination)).toEqual([]);
  expect(omissions).toEqual([
    { path: 'hard', reason: 'the file that it is a hard link to was not copied' },
  ]);
});

test('devices and set-id bits that were not asked for are left out', async () => {
  const setId = entry('file', 1, 'su', { mode: constants.S_IFREG | 0o6755 });
  const device = entry('device', 1, 'null', { device: 259n });
  await unpack(directory, device, setId, encodeEndOfFile(0), complete);
  expect(await readdir(destination)).toEqual(['su']);
  expect((await stat(join(destination, 'su'))).mode & 0o7777).toBe(0o755);
  expect(omissions.map(({ path }) => path)).toEqual(['null', 'su']);
});

test('an attribute that may not be set is named, and the file is kept', async () => {
  const attribute = encodeXattr('no-such-namespace.x', Buffer.from('y'));
  await unpack(file, attribute, data(0, 'x'), encodeEndOfFile(1), complete);
  expect(await readFile(destination, 'utf8')).toBe('x');
  expect(omissions).toEqual([
    {
      path: '',
      reason: 'its attribute no-such-namespace.x: the file system does not support it',
    },
  ]);
});

describe('a truncated stream', () => {
  test('leaves what was there before', async () => {
    await writeFile(destination, 'old');
    await expect(unpack(file, data(0, 'new'))).rejects.toThrow('before it was complete');
    expect(await readFile(destination, 'utf8')).toBe('old');
    expect(await readdir(join(root, 'into'))).toEqual(['copy']);
  });

  test('is detected at any byte', async () => {
    await mkdir(join(root, 'from/sub'), { recursive: true });
    await writeFile(join(root, 'from/sub/file'), 'content');
    const whole = Buffer.concat(
      await Array.fromAsync(packTree(join(root, 'from'), { archive: false })),
    );
    for (let length = 0; length < whole.length; length++) {
      await expect(unpack(whole.subarray(0, length))).rejects.toMatchObject({ name: 'TreeError' });
      expect(await readdir(join(root, 'into'))).toEqual([]);
    }
    expect(await unpack(whole)).toMatchObject({ kind: 'directory', bytes: 7 });
    expect(await readFile(join(destination, 'sub/file'), 'utf8')).toBe('content');
  });

  test('that is split into chunks anywhere is read all the same', async () => {
    await writeFile(join(root, 'file'), 'content');
    const whole = Buffer.concat(
      await Array.fromAsync(packTree(join(root, 'file'), { archive: false })),
    );
    for (const size of [1, 2, 3, 5, 8, 13, 64]) {
      const pieces = Array.from({ length: Math.ceil(whole.length / size) }, (_, index) =>
        whole.subarray(index * size, (index + 1) * size),
      );
      expect(await unpack(...pieces)).toMatchObject({ kind: 'file', bytes: 7 });
      expect(await readFile(destination, 'utf8')).toBe('content');
    }
  });
});
