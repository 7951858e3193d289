import { chmod, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { findFirecracker } from './find-firecracker.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-find-'));
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(directory, { recursive: true });
});

async function program(name: string, output: string): Promise<string> {
  const path = join(directory, name);
  await writeFile(path, `#!/bin/sh\necho '${output}'\n`);
  await chmod(path, 0o755);
  return path;
}

test('it is found on the PATH, with the jailer beside it', async () => {
  const path = await program('firecracker-v1.16.1', 'Firecracker v1.16.1\n\nexiting');
  await symlink(path, join(directory, 'firecracker'));
  const jailerPath = await program('jailer', 'Jailer v1.16.1');
  vi.stubEnv('PATH', `${directory}:${process.env.PATH}`);
  expect(await findFirecracker()).toEqual({ path, version: '1.16.1', jailerPath });
});

test('it is found at a given path, without a jailer', async () => {
  const path = await program('fc', 'Firecracker v1.17.0-dev');
  expect(await findFirecracker({ firecracker: path })).toEqual({ path, version: '1.17.0-dev' });
});

test('a jailer of another version is refused', async () => {
  const firecracker = await program('firecracker', 'Firecracker v1.16.1');
  await program('jailer', 'Jailer v1.13.0');
  await expect(findFirecracker({ firecracker })).rejects.toMatchObject({
    code: 'host_setup',
    message: expect.stringMatching(
      /jailer is version 1\.13\.0, but Firecracker is version 1\.16\.1/,
    ),
  });
});

test.each([
  ['too old', 'Firecracker v1.7.0', /1\.7\.0, which is too old/],
  ['something else', 'QEMU emulator version 10.0.2', /does not report its version/],
])('one that is %s is refused', async (_, output, message) => {
  const firecracker = await program('firecracker', output);
  await expect(findFirecracker({ firecracker })).rejects.toMatchObject({
    code: 'host_setup',
    message: expect.stringMatching(message),
  });
});

test('a missing installation, and a path that does not exist, are errors with a remedy', async () => {
  vi.stubEnv('PATH', directory);
  await expect(findFirecracker()).rejects.toMatchObject({
    code: 'host_setup',
    message: 'Firecracker is not installed.',
    remedy: expect.stringContaining('TORPOR_FIRECRACKER'),
  });
  const missing = findFirecracker({ firecracker: join(directory, 'nothing') });
  await expect(missing).rejects.toMatchObject({ code: 'host_setup' });
});
