import { mkdtemp, open, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { copySparse, dataExtents } from './sparse.ts';

const MIB = 1024 * 1024;

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-sparse-'));
});
afterAll(() => rm(directory, { recursive: true }));

/** A file of 8 MiB with data in its second and its last MiB. */
async function sparseFile(name: string): Promise<string> {
  const path = join(directory, name);
  await using file = await open(path, 'w');
  await file.truncate(8 * MIB);
  await file.write(Buffer.alloc(MIB, 1), 0, MIB, MIB);
  await file.write(Buffer.alloc(MIB, 2), 0, MIB, 7 * MIB);
  return path;
}

describe('dataExtents', () => {
  test('returns the parts that have data, in order', async () => {
    await using file = await open(await sparseFile('extents'));
    expect([...dataExtents(file)]).toEqual([
      { offset: MIB, length: MIB },
      { offset: 7 * MIB, length: MIB },
    ]);
  });

  test('finds none in an empty file, nor in one that is all hole', async () => {
    const path = join(directory, 'hole');
    await using file = await open(path, 'w+');
    expect([...dataExtents(file)]).toEqual([]);
    await file.truncate(MIB);
    expect([...dataExtents(file)]).toEqual([]);
  });
});

describe('copySparse', () => {
  test('copies the bytes and keeps the holes', async () => {
    const from = await sparseFile('from');
    const to = join(directory, 'to');
    const { shared, copiedBytes } = await copySparse(from, to);
    expect((await readFile(to)).equals(await readFile(from))).toBe(true);
    expect(copiedBytes).toBe(shared ? 0 : 2 * MIB);
    const { blocks, size } = await stat(to);
    expect(size).toBe(8 * MIB);
    expect(blocks * 512).toBeLessThan(3 * MIB);
  });

  test('leaves nothing when the source is missing', async () => {
    const to = join(directory, 'never');
    await expect(copySparse(join(directory, 'missing'), to)).rejects.toThrow(/ENOENT/);
    await expect(stat(to)).rejects.toThrow(/ENOENT/);
  });
});
