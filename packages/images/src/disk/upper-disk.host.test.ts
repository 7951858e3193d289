import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from '@torpor/linux';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createUpperDisk } from './upper-disk.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'upper-'));
});

afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

describe('createUpperDisk', () => {
  test.each([32, 1024, 10_240])(
    'a disk of %d MiB is valid, and allocates next to nothing',
    async (sizeMiB) => {
      const path = join(directory, 'upper.ext4');
      await createUpperDisk(path, sizeMiB);
      const { size, blocks, mode } = await stat(path);
      expect(size).toBe(sizeMiB * 1024 * 1024);
      expect(blocks * 512).toBeLessThan(6 * 1024 * 1024);
      expect(mode & 0o777).toBe(0o600);
      await runCommand('e2fsck', ['-f', '-n', path]);
    },
  );

  test('two disks do not have the same UUID', async () => {
    const uuids = [];
    for (const name of ['one', 'two']) {
      await createUpperDisk(join(directory, name), 64);
      const listing = await runCommand('dumpe2fs', ['-h', join(directory, name)]);
      uuids.push(/^Filesystem UUID:\s+(\S+)$/m.exec(listing)?.[1]);
    }
    expect(uuids[0]).toMatch(/^[0-9a-f-]{36}$/);
    expect(uuids[0]).not.toBe(uuids[1]);
  });

  test.each([0, -1, 31, 1.5, Number.NaN, 2 ** 21])(
    'a size of %d MiB is refused',
    async (sizeMiB) => {
      await expect(createUpperDisk(join(directory, 'x'), sizeMiB)).rejects.toMatchObject({
        code: 'invalid_request',
      });
      expect(await readdir(directory)).toEqual([]);
    },
  );

  test('a disk that exists is not touched', async () => {
    const path = join(directory, 'upper.ext4');
    await createUpperDisk(path, 64);
    await expect(createUpperDisk(path, 32)).rejects.toMatchObject({ code: 'already_exists' });
    expect((await stat(path)).size).toBe(64 * 1024 * 1024);
  });

  test('a full disk is reported, and no file is left', async () => {
    const small = join(directory, 'small');
    await mkdir(small);
    await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small]);
    try {
      await expect(createUpperDisk(join(small, 'upper'), 10_240)).rejects.toMatchObject({
        code: 'disk_full',
      });
      expect(await readdir(small)).toEqual([]);
    } finally {
      await runCommand('umount', [small]);
    }
  });
});
