import { link, mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type MachineLayout, machineLayout } from './machine-layout.ts';
import { takeSnapshot } from './snapshot-files.ts';

let directory: string;
let layout: MachineLayout;
let wanted: { statePath: string; memoryPath: string };

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-snapshot-'));
  layout = machineLayout(directory);
  wanted = { statePath: join(directory, 'out-state'), memoryPath: join(directory, 'out-memory') };
  await mkdir(layout.snapshotDirectory);
  await writeFile(layout.snapshotState, 'state');
});

afterEach(() => rm(directory, { recursive: true }));

test('a snapshot is moved to its destination, accessible to us only', async () => {
  await writeFile(layout.snapshotMemory, 'memory', { mode: 0o644 });
  await takeSnapshot(layout, wanted);
  expect(await readFile(wanted.statePath, 'utf8')).toBe('state');
  expect(await readFile(wanted.memoryPath, 'utf8')).toBe('memory');
  expect((await stat(wanted.memoryPath)).mode & 0o777).toBe(0o600);
  await expect(stat(layout.snapshotMemory)).rejects.toThrow('ENOENT');
});

test.each([
  ['a link to a file of the host', (path: string, secret: string) => symlink(secret, path)],
  ['another name of a file', (path: string, secret: string) => link(secret, path)],
  ['a directory', (path: string) => mkdir(path)],
])('%s in its place is refused, and not touched', async (_, plant) => {
  const secret = join(directory, 'secret');
  await writeFile(secret, 'of the host', { mode: 0o644 });
  await plant(layout.snapshotMemory, secret);
  await expect(takeSnapshot(layout, wanted)).rejects.toThrow(/ELOOP|not a regular file/);
  expect((await stat(secret)).mode & 0o777).toBe(0o644);
  await expect(stat(wanted.statePath)).rejects.toThrow('ENOENT');
  await expect(stat(wanted.memoryPath)).rejects.toThrow('ENOENT');
});

test('nothing is replaced', async () => {
  await writeFile(layout.snapshotMemory, 'memory');
  await writeFile(wanted.memoryPath, 'a build');
  await expect(takeSnapshot(layout, wanted)).rejects.toMatchObject({ code: 'already_exists' });
  expect(await readFile(wanted.memoryPath, 'utf8')).toBe('a build');
  await expect(stat(wanted.statePath)).rejects.toThrow('ENOENT');
});
