import { mkdtemp, readFile, readlink, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from '@torpor/linux';
import { expect, test } from 'vitest';
import { writeCpio } from './cpio.ts';

const ENTRIES = [
  { kind: 'directory', path: 'bin' },
  { kind: 'file', path: 'bin/odd', data: Buffer.from('five\n'), mode: 0o755 },
  { kind: 'file', path: 'empty', data: Buffer.alloc(0) },
  { kind: 'symlink', path: 'bin/link', target: 'odd' },
  { kind: 'character-device', path: 'console', major: 5, minor: 1 },
  { kind: 'character-device', path: 'disks', major: 10, minor: 237, mode: 0o660, gid: 6 },
] as const;

test('cpio(1) reads the archive back as it was written', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'cpio-'));
  try {
    await runCommand('busybox', ['cpio', '-i', '-d'], {
      cwd: directory,
      input: writeCpio(ENTRIES),
    });
    expect(await readFile(join(directory, 'bin/odd'), 'utf8')).toBe('five\n');
    expect((await stat(join(directory, 'bin/odd'))).mode & 0o7777).toBe(0o755);
    expect((await stat(join(directory, 'empty'))).size).toBe(0);
    expect(await readlink(join(directory, 'bin/link'))).toBe('odd');
    const device = await stat(join(directory, 'console'));
    expect(device.isCharacterDevice()).toBe(true);
    expect(device.rdev).toBe((5 << 8) | 1);
    const disks = await stat(join(directory, 'disks'));
    expect([disks.uid, disks.gid, disks.mode & 0o7777]).toEqual([0, 6, 0o660]);
  } finally {
    await rm(directory, { recursive: true });
  }
});

test('the same entries give the same bytes', () => {
  expect(writeCpio(ENTRIES).equals(writeCpio(ENTRIES))).toBe(true);
});

test.each(['', '/etc/passwd'])('the path %j is refused', (path) => {
  expect(() => writeCpio([{ kind: 'directory', path }])).toThrow('relative');
});
