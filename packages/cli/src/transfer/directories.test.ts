import { lstat, mkdtemp, readdir, readFile, readlink, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { type Pack, pack } from 'tar-stream';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { processIo } from '../io.ts';
import { TransferProgress } from '../output/progress.ts';
import { unpack } from './directories.ts';

let root: string;
let directory: string;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'torpor-unpack-'));
  directory = await mkdtemp(join(root, 'into-'));
});
afterEach(() => rm(root, { recursive: true }));

/** Unpacks what an untrusted sandbox might send. */
async function unpackFrom(fill: (archive: Pack) => void): Promise<string[]> {
  const archive = pack();
  fill(archive);
  archive.finalize();
  const progress = new TransferProgress(processIo(), '', undefined, false);
  return unpack(archive.pipe(new PassThrough()), directory, progress);
}

describe('unpack', () => {
  test('makes files, directories and links with their permissions', async () => {
    const skipped = await unpackFrom((archive) => {
      archive.entry({ name: './', type: 'directory' });
      archive.entry({ name: './bin', type: 'directory' });
      archive.entry({ name: './bin/tool', mode: 0o755 }, '#!/bin/sh\n');
      archive.entry({ name: './latest', type: 'symlink', linkname: 'bin/tool' });
    });
    expect(skipped).toEqual([]);
    expect(await readFile(join(directory, 'bin/tool'), 'utf8')).toBe('#!/bin/sh\n');
    expect((await lstat(join(directory, 'bin/tool'))).mode & 0o777).toBe(0o755);
    expect(await readlink(join(directory, 'latest'))).toBe('bin/tool');
  });

  test.each(['../escaped', '/escaped', 'a/../../escaped'])('refuses the name %s', async (name) => {
    await expect(unpackFrom((archive) => archive.entry({ name }, 'x'))).rejects.toMatchObject({
      code: 'invalid_request',
    });
    expect(await readdir(root)).toHaveLength(1);
  });

  test('writes nothing through a link that the archive brings', async () => {
    await expect(
      unpackFrom((archive) => {
        archive.entry({ name: 'link', type: 'symlink', linkname: root });
        archive.entry({ name: 'link/escaped' }, 'x');
      }),
    ).rejects.toThrow();
    expect(await readdir(root)).toHaveLength(1);
  });

  test('leaves out devices and hard links, and drops set-id bits', async () => {
    const skipped = await unpackFrom((archive) => {
      archive.entry({ name: 'null', type: 'character-device', devmajor: 1, devminor: 3 });
      archive.entry({ name: 'hard', type: 'link', linkname: '/etc/shadow' });
      archive.entry({ name: 'su', mode: 0o6755 }, 'x');
    });
    expect(skipped).toEqual(['null', 'hard']);
    expect((await lstat(join(directory, 'su'))).mode & 0o7777).toBe(0o755);
  });
});
