import { mkdtemp, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { newId } from '@torpor/protocol';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { lockDataDirectory } from './agent-lock.ts';
import { closeLayout, openLayout } from './layout.ts';
import { loadOrCreateKey } from './secret-key.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-layout-'));
});
afterEach(() => rm(directory, { recursive: true }));

test('a data directory can be traversed, but only root can list it', async () => {
  const layout = await openLayout(join(directory, 'data'));
  try {
    const mode = async (path: string) => (await stat(path)).mode & 0o777;
    expect(await mode(layout.dataDir)).toBe(0o711);
    expect(await mode(join(layout.dataDir, 'keys'))).toBe(0o700);
    expect(await mode(join(layout.dataDir, 'journal'))).toBe(0o700);
    expect(await mode(layout.memoryRoot)).toBe(0o711);
  } finally {
    await closeLayout(layout);
  }
});

test('a data directory has the same tag under every path', async () => {
  const data = join(directory, 'data');
  const layout = await openLayout(data);
  await symlink(data, join(directory, 'link'));
  const same = await openLayout(join(directory, 'link'));
  const other = await openLayout(join(directory, 'other'));
  try {
    expect(layout.instance).toMatch(/^[0-9a-f]{6}$/);
    expect(same.instance).toBe(layout.instance);
    expect(other.instance).not.toBe(layout.instance);
  } finally {
    await closeLayout(layout);
    await closeLayout(other);
  }
});

test('socket paths are short enough for any data directory', async () => {
  const deep = join(directory, 'x'.repeat(200));
  const layout = await openLayout(deep);
  try {
    const run = layout.runDirectory(newId('sandbox'));
    expect(Buffer.byteLength(run)).toBeLessThanOrEqual(80);
  } finally {
    await closeLayout(layout);
  }
  await expect(stat(layout.runRoot)).rejects.toMatchObject({ code: 'ENOENT' });
});

test('directories that a sandbox still uses outlive the agent', async () => {
  const layout = await openLayout(directory);
  const file = layout.memoryFile(newId('sandbox'));
  await writeFile(file, 'ram');
  await closeLayout(layout);
  expect((await stat(file)).size).toBe(3);
  await rm(file);
  await closeLayout(layout);
  await expect(stat(layout.memoryRoot)).rejects.toMatchObject({ code: 'ENOENT' });
});

test('a second agent is refused until the first has exited', async () => {
  const path = join(directory, 'agent.lock');
  {
    await using _ = await lockDataDirectory(path);
    await expect(lockDataDirectory(path)).rejects.toMatchObject({ code: 'conflict' });
  }
  await using _ = await lockDataDirectory(path);
});

test('the key is created once, is private, and is never replaced', async () => {
  const path = join(directory, 'guest.key');
  const key = await loadOrCreateKey(path);
  expect(key).toHaveLength(32);
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect(await loadOrCreateKey(path)).toEqual(key);
  await writeFile(path, 'short');
  await expect(loadOrCreateKey(path)).rejects.toMatchObject({ code: 'host_setup' });
});
