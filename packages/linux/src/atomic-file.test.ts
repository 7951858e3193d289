import { mkdir, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { writeFileAtomically } from './atomic-file.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-atomic-'));
});
afterEach(() => rm(directory, { recursive: true }));

test('a file is replaced as a whole, with the mode that is asked for', async () => {
  const path = join(directory, 'file');
  await writeFileAtomically(path, 'one', 0o644);
  expect((await stat(path)).mode & 0o777).toBe(0o644);
  await writeFileAtomically(path, 'two');
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect(await readFile(path, 'utf8')).toBe('two');
  expect(await readdir(directory)).toEqual(['file']);
});

test('a file that cannot be written as a whole is not written at all', async () => {
  await mkdir(join(directory, 'target'));
  await expect(writeFileAtomically(join(directory, 'target'), 'new')).rejects.toThrow();
  expect(await readdir(directory)).toEqual(['target']);
});
