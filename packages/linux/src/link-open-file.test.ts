import { constants } from 'node:fs';
import { mkdtemp, open, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { linkOpenFile, O_TMPFILE } from './link-open-file.ts';
import { reserveBlocks } from './preallocate.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-link-'));
});

afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

it('makes a finished file appear under its name, and never over another one', async () => {
  await using file = await open(directory, O_TMPFILE | constants.O_RDWR, 0o644);
  await file.write('content');
  expect(await readdir(directory)).toEqual([]);
  linkOpenFile(file.fd, join(directory, 'name'));
  expect(await readFile(join(directory, 'name'), 'utf8')).toBe('content');
  await using other = await open(directory, O_TMPFILE | constants.O_RDWR, 0o644);
  expect(() => linkOpenFile(other.fd, join(directory, 'name'))).toThrow('EEXIST');
});

it('reserves blocks without a change to be seen', async () => {
  await using file = await open(join(directory, 'file'), 'w');
  await file.write('x');
  expect(reserveBlocks(file.fd, 1_000_000)).toBe(true);
  const { size, blocks } = await stat(join(directory, 'file'));
  expect(size).toBe(1);
  expect(blocks * 512).toBeGreaterThanOrEqual(1_000_000);
  expect(() => reserveBlocks(file.fd, 2 ** 52)).toThrow(/EFBIG|ENOSPC/);
});

it('cannot reserve for files that are not on a disk', async () => {
  await using file = await open('/proc/self/comm', 'r+');
  expect(reserveBlocks(file.fd, 10)).toBe(false);
});
