import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errorOf, FilesServer } from '@torpor/testkit/envd';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readMetadata } from '../filesystem/metadata.ts';

const files = FilesServer.forEachTest();

describe('a full disk', () => {
  let mount: string;

  beforeEach(async () => {
    mount = join(files.directory, 'small');
    await mkdir(mount);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m,mode=755', 'tmpfs', mount]);
  });

  afterEach(() => {
    execFileSync('umount', [mount]);
  });

  it('returns 507 and leaves nothing half-written, new or old', async () => {
    await writeFile(join(mount, 'old'), 'precious');
    for (const name of ['new', 'p/new', 'old']) {
      const response = await files.put(join(mount, name), Buffer.alloc(4_000_000, 1));
      expect([name, response.status]).toEqual([name, 507]);
      expect((await errorOf(response)).message).toContain('not enough disk space');
    }
    expect(await readdir(mount)).toEqual(['old']);
    expect(await readFile(join(mount, 'old'), 'utf8')).toBe('precious');
    expect((await files.put(join(mount, 'new'), Buffer.alloc(1_000_000))).status).toBe(200);
  });

  it('keeps an old file if there is no space for a small new content', async () => {
    await writeFile(join(mount, 'old'), 'precious');
    await writeFile(join(mount, 'filler'), Buffer.alloc(1_800_000));
    expect((await files.put(join(mount, 'old'), Buffer.alloc(900_000, 1))).status).toBe(507);
    expect((await files.put(join(mount, 'fresh'), Buffer.alloc(900_000, 1))).status).toBe(507);
    expect(await readFile(join(mount, 'old'), 'utf8')).toBe('precious');
    expect((await readdir(mount)).toSorted()).toEqual(['filler', 'old']);
  });
});

describe('metadata', () => {
  it('is stored with the file, returned in the response, and replaced by the next upload', async () => {
    const path = join(files.directory, 'file');
    const first = await files.put(path, 'x', {
      'X-Metadata-Author': 'ann',
      'x-metadata-empty': '',
    });
    expect(await first.json()).toMatchObject([{ metadata: { author: 'ann', empty: '' } }]);
    expect(readMetadata(path)).toEqual({ author: 'ann', empty: '' });
    await files.put(path, randomBytes(2_000_000), { 'X-Metadata-Purpose': 'test' });
    expect(readMetadata(path)).toEqual({ purpose: 'test' });
    await files.put(path, 'x');
    expect(readMetadata(path)).toEqual({});
    await files.put(join(files.directory, 'large'), randomBytes(2_000_000), {
      'X-Metadata-A': 'b',
    });
    expect(readMetadata(join(files.directory, 'large'))).toEqual({ a: 'b' });
  });

  it('is refused where the file system cannot store it, and so is the file', async () => {
    execFileSync('mount', ['-t', 'ramfs', 'ramfs', files.directory]);
    try {
      const refused = await files.put(join(files.directory, 'file'), 'x', { 'x-metadata-a': 'b' });
      expect((await errorOf(refused)).message).toContain('cannot keep metadata');
      expect(await readdir(files.directory)).toEqual([]);
      expect((await files.put(join(files.directory, 'file'), 'x')).status).toBe(200);
      expect((await files.put(join(files.directory, 'large'), randomBytes(2_000_000))).status).toBe(
        200,
      );
      expect((await files.put(join(files.directory, 'large'), randomBytes(3_000_000))).status).toBe(
        200,
      );
      expect((await readdir(files.directory)).toSorted()).toEqual(['file', 'large']);
    } finally {
      execFileSync('umount', [files.directory]);
    }
  });

  it('is refused when it is too long or not printable ASCII', async () => {
    const path = join(files.directory, 'file');
    for (const headers of [
      { 'x-metadata-a': 'x'.repeat(4100) },
      { [`x-metadata-${'k'.repeat(247)}`]: 'x' },
      { 'x-metadata-a': 'caf\u00e9' },
    ])
      expect((await files.put(path, 'x', headers)).status).toBe(400);
    expect(await readdir(files.directory)).toEqual([]);
  });
});
