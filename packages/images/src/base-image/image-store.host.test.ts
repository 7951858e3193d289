import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { runCommand } from '@torpor/linux';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { computeKey } from '../cache/artifact-cache.ts';
import { packageProgress } from './debian-base.ts';
import { type Image, ImageStore } from './image-store.ts';

let cacheDir: string;

beforeEach(async () => {
  cacheDir = await mkdtemp(join(tmpdir(), 'images-'));
});

afterEach(async () => {
  await rm(cacheDir, { recursive: true, force: true });
});

/** Writes a published version as a build would. */
async function publish(name: string, version: number): Promise<string> {
  const key = computeKey({ version });
  const directory = join(cacheDir, 'images', name, key);
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, 'rootfs.ext4'), 'x'.repeat(1000 + version));
  const manifest = {
    format: 1,
    name,
    key,
    createdAt: '2026-01-02T03:04:05.000Z',
    defaultUser: 'user',
  };
  await writeFile(join(directory, 'manifest.json'), JSON.stringify(manifest));
  const pointer = JSON.stringify({ format: 1, key });
  await writeFile(join(cacheDir, 'images', name, 'current.json'), pointer);
  return key;
}

describe('ImageStore', () => {
  test('without images nothing is listed or resolved', async () => {
    const store = new ImageStore({ cacheDir });
    expect(await store.list()).toEqual([]);
    expect(await store.resolve('base')).toBeUndefined();
  });

  test('a name refers to the version that was published last', async () => {
    await publish('base', 1);
    const key = await publish('base', 2);
    const store = new ImageStore({ cacheDir });
    const image: Image = {
      name: 'base',
      key,
      path: join(cacheDir, 'images', 'base', key, 'rootfs.ext4'),
      sizeBytes: 1002,
      createdAt: '2026-01-02T03:04:05.000Z',
      defaultUser: 'user',
    };
    expect(await store.resolve('base')).toEqual(image);
    expect(await store.list()).toEqual([image]);
  });

  test.each(['../base', '', 'Base', '.', 'a/b', 'x'.repeat(64)])(
    'the name %j refers to nothing, and accesses no file',
    async (name) => {
      await publish('base', 1);
      const store = new ImageStore({ cacheDir });
      expect(await store.resolve(name)).toBeUndefined();
      await expect(store.remove(name)).rejects.toMatchObject({ code: 'not_found' });
      expect(await store.resolve('base')).toBeDefined();
    },
  );

  test('an image is removed with all its versions', async () => {
    await publish('base', 1);
    await publish('base', 2);
    const store = new ImageStore({ cacheDir });
    await store.remove('base');
    expect(await store.list()).toEqual([]);
    expect(await readdir(join(cacheDir, 'images', 'base'))).toEqual(['.lock']);
    await expect(store.remove('base')).rejects.toMatchObject({ code: 'not_found' });
  });

  test('an image of which an old version is in use is not removed', async () => {
    const used = await publish('base', 1);
    const current = await publish('base', 2);
    const store = new ImageStore({ cacheDir, isInUse: ({ key }) => key === used });
    await expect(store.remove('base')).rejects.toMatchObject({ code: 'conflict' });
    expect((await store.resolve('base'))?.key).toBe(current);
    expect(await store.prune()).toEqual([]);
  });

  test('prune removes old versions that nothing uses', async () => {
    const old = await publish('base', 1);
    const current = await publish('base', 2);
    const store = new ImageStore({ cacheDir });
    const path = join(cacheDir, 'images', 'base', old);
    const pruned = [{ path, bytes: expect.any(Number) }];
    expect(await store.prune({ dryRun: true })).toEqual(pruned);
    expect(await readdir(join(cacheDir, 'images', 'base'))).toContain(old);
    expect(await store.prune()).toEqual(pruned);
    expect(await readdir(join(cacheDir, 'images', 'base'))).not.toContain(old);
    expect((await store.resolve('base'))?.key).toBe(current);
  });

  test('prune removes the versions of a name that refers to nothing any more', async () => {
    const key = await publish('base', 1);
    await rm(join(cacheDir, 'images', 'base', 'current.json'));
    const store = new ImageStore({ cacheDir });
    expect((await store.prune()).map(({ path }) => basename(path))).toEqual([key]);
  });

  test('a damaged pointer is refused by name', async () => {
    await publish('base', 1);
    await writeFile(
      join(cacheDir, 'images', 'base', 'current.json'),
      '{"format":1,"key":"../../x"}',
    );
    await expect(new ImageStore({ cacheDir }).resolve('base')).rejects.toThrow(
      'images/base/current.json is damaged',
    );
  });

  test('an image of another name cannot be built', async () => {
    await expect(new ImageStore({ cacheDir }).build('alpine')).rejects.toMatchObject({
      code: 'not_found',
    });
  });

  test('a build on a disk without room fails as disk_full and leaves nothing', async () => {
    await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', cacheDir]);
    try {
      await expect(new ImageStore({ cacheDir }).build('base')).rejects.toMatchObject({
        code: 'disk_full',
      });
      expect(await readdir(join(cacheDir, 'images', 'base'))).toEqual(['.lock']);
    } finally {
      await runCommand('umount', [cacheDir]);
    }
  });
});

test('the progress of a build is a few lines, for any number of packages', () => {
  const messages: string[] = [];
  const onLine = packageProgress((message) => messages.push(message));
  onLine('I: downloading packages with apt...');
  for (let index = 0; index < 60; index++) onLine(`Unpacking package${index} (1.0) ...`);
  for (let index = 0; index < 25; index++) onLine(`Setting up package${index} (1.0) ...`);
  onLine('Get:1 http://deb.debian.org/debian bookworm InRelease');
  expect(messages).toEqual([
    'downloading packages with apt',
    '25 packages unpacked',
    '50 packages unpacked',
    '25 packages set up',
  ]);
});
