import { chmod, mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { findProgram } from './find-program.ts';

let root: string;
let first: string;
let second: string;
let elsewhere: string;

beforeEach(async () => {
  root = await realpath(await mkdtemp(join(tmpdir(), 'torpor-path-')));
  [first, second, elsewhere] = [join(root, 'first'), join(root, 'second'), join(root, 'elsewhere')];
  for (const directory of [first, second, elsewhere]) await mkdir(directory);
  vi.stubEnv('PATH', `${first}:${second}`);
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(root, { recursive: true });
});

async function program(directory: string, mode = 0o755): Promise<string> {
  const path = join(directory, 'tool');
  await writeFile(path, '');
  await chmod(path, mode);
  return path;
}

test('the first directory of the PATH that has the program wins', async () => {
  const later = await program(second);
  expect(await findProgram('tool')).toBe(later);
  const earlier = await program(first);
  expect(await findProgram('tool')).toBe(earlier);
});

test('other directories are searched before the PATH, or after it', async () => {
  const other = await program(elsewhere);
  expect(await findProgram('tool')).toBeUndefined();
  expect(await findProgram('tool', { after: [elsewhere] })).toBe(other);
  const own = await program(second);
  expect(await findProgram('tool', { after: [elsewhere] })).toBe(own);
  expect(await findProgram('tool', { before: [elsewhere] })).toBe(other);
});

test('a link is found by its own path', async () => {
  await symlink(await program(elsewhere), join(first, 'tool'));
  expect(await findProgram('tool')).toBe(join(first, 'tool'));
});

test.each([
  ['a file that is not executable', () => program(first, 0o644)],
  ['a directory', () => mkdir(join(first, 'tool'))],
  ['a dangling link', () => symlink(join(root, 'missing'), join(first, 'tool'))],
])('%s is passed over', async (_what, place) => {
  await place();
  expect(await findProgram('tool')).toBeUndefined();
  const next = await program(second);
  expect(await findProgram('tool')).toBe(next);
});

test('a relative entry of the PATH, and an empty one, are ignored', async () => {
  await program(elsewhere);
  vi.stubEnv('PATH', `${relative(process.cwd(), elsewhere)}::`);
  expect(await findProgram('tool')).toBeUndefined();
});

test('without a PATH, only the other directories are searched', async () => {
  vi.stubEnv('PATH', undefined);
  const other = await program(elsewhere);
  expect(await findProgram('tool')).toBeUndefined();
  expect(await findProgram('tool', { after: [elsewhere] })).toBe(other);
});
