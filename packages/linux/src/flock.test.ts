import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { tryLockFile } from './flock.ts';

test('a lock is exclusive until it is disposed of', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-flock-'));
  try {
    const path = join(directory, 'lock');
    const first = await tryLockFile(path);
    expect(first).toBeDefined();
    expect(await tryLockFile(path)).toBeUndefined();
    await first?.[Symbol.asyncDispose]();
    const second = await tryLockFile(path);
    expect(second).toBeDefined();
    await second?.[Symbol.asyncDispose]();
  } finally {
    await rm(directory, { recursive: true });
  }
});
