import { type FileHandle, mkdtemp, open, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { getXattr, listXattrs, removeXattr, setXattr } from './xattr.ts';

let directory: string;
let path: string;
let file: FileHandle;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-xattr-'));
  path = join(directory, 'file');
  file = await open(path, 'w');
});

afterEach(async () => {
  await file.close();
  await rm(directory, { recursive: true, force: true });
});

describe.each(['path', 'descriptor'])('by %s', (kind) => {
  const target = () => (kind === 'path' ? path : file.fd);

  it('keeps bytes, replaces, lists and removes', () => {
    const bytes = Buffer.from([0, 1, 254, 255]);
    setXattr(target(), 'user.a', 'old');
    setXattr(target(), 'user.a', bytes);
    setXattr(target(), 'user.empty', '');
    expect(getXattr(target(), 'user.a')).toEqual(bytes);
    expect(getXattr(target(), 'user.empty')).toHaveLength(0);
    expect(listXattrs(target()).toSorted()).toEqual(['user.a', 'user.empty']);
    removeXattr(target(), 'user.a');
    removeXattr(target(), 'user.a');
    expect(getXattr(target(), 'user.a')).toBeUndefined();
    expect(listXattrs(target())).toEqual(['user.empty']);
  });

  it('throws the errno by name', () => {
    expect(() => setXattr(target(), `user.${'x'.repeat(300)}`, '')).toThrow(
      expect.objectContaining({ code: 'ERANGE', syscall: 'setxattr' }),
    );
    expect(() => setXattr(target(), 'nonsense', '')).toThrow(
      expect.objectContaining({ code: 'ENOTSUP' }),
    );
  });
});

it('follows symbolic links', async () => {
  setXattr(path, 'user.a', 'x');
  await symlink('file', join(directory, 'link'));
  expect(getXattr(join(directory, 'link'), 'user.a')?.toString()).toBe('x');
  expect(() => listXattrs(join(directory, 'none'))).toThrow('ENOENT');
});
