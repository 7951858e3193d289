import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { computeKey } from './artifact-cache.ts';
import { listCacheUsers, registerCacheUser } from './cache-users.ts';

let root: string;
let cacheDir: string;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'torpor-cache-users-'));
  cacheDir = join(root, 'cache');
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function dataDirectory(name: string): Promise<string> {
  const path = join(root, name);
  await mkdir(path, { recursive: true });
  return path;
}

const [first, second] = [computeKey({ n: 1 }), computeKey({ n: 2 })];

test('each data directory is listed with the artefacts of its last start', async () => {
  const [a, b] = [await dataDirectory('a'), await dataDirectory('b')];
  expect(await listCacheUsers(cacheDir)).toEqual([]);
  await registerCacheUser(cacheDir, { dataDir: a, keys: [first] });
  await registerCacheUser(cacheDir, { dataDir: b, keys: [first] });
  await registerCacheUser(cacheDir, { dataDir: a, keys: [second] });
  const users = await listCacheUsers(cacheDir);
  expect(users.toSorted((x, y) => x.dataDir.localeCompare(y.dataDir))).toEqual([
    { dataDir: a, keys: [second] },
    { dataDir: b, keys: [first] },
  ]);
});

test('one that no longer exists is dropped at the next registration', async () => {
  const [a, b] = [await dataDirectory('a'), await dataDirectory('b')];
  await registerCacheUser(cacheDir, { dataDir: a, keys: [first] });
  await rm(a, { recursive: true });
  await registerCacheUser(cacheDir, { dataDir: b, keys: [first] });
  expect(await listCacheUsers(cacheDir)).toEqual([{ dataDir: b, keys: [first] }]);
});

test('a damaged entry is an error that names the file, and is not skipped', async () => {
  const dataDir = await dataDirectory('a');
  await registerCacheUser(cacheDir, { dataDir, keys: [first] });
  const [name = ''] = await readdir(join(cacheDir, 'users'));
  await writeFile(join(cacheDir, 'users', name), '{"format":1');
  await expect(listCacheUsers(cacheDir)).rejects.toMatchObject({
    code: 'internal_error',
    message: expect.stringContaining(name),
  });
});
