import { mkdir, mkdtemp, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { runtimeDirectory } from './runtime-directory.ts';

const OWN = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };

let parent: string;

beforeEach(async () => {
  parent = join(await mkdtemp(join(tmpdir(), 'torpor-runtime-')), 'user');
});
afterEach(() => rm(join(parent, '..'), { recursive: true }));

it.runIf(OWN.uid === 0)(
  'is created for the account only, in a directory that all may enter',
  async () => {
    const path = runtimeDirectory({ uid: 54321, gid: 54322 }, parent);
    expect(path).toBe(join(parent, '54321'));
    const { mode, uid, gid } = await stat(path ?? '');
    expect([mode & 0o7777, uid, gid]).toEqual([0o700, 54321, 54322]);
    expect((await stat(parent)).mode & 0o7777).toBe(0o755);
    expect(runtimeDirectory({ uid: 54321, gid: 54322 }, parent)).toBe(path);
  },
);

it('is undefined if something else than a directory exists', async () => {
  await mkdir(parent);
  await writeFile(join(parent, String(OWN.uid)), '');
  expect(runtimeDirectory(OWN, parent)).toBeUndefined();
});

it('is not the target of a link', async () => {
  await mkdir(parent);
  await symlink('/', join(parent, String(OWN.uid)));
  expect(runtimeDirectory(OWN, parent)).toBeUndefined();
});

it('is undefined where it cannot be created', () => {
  expect(runtimeDirectory(OWN, '/proc/none')).toBeUndefined();
});
