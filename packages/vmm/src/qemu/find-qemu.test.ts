import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { findQemu, isAtLeast } from './find-qemu.ts';

async function program(script: string): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-qemu-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  const path = join(directory, 'qemu');
  await writeFile(path, `#!/bin/sh\n${script}\n`, { mode: 0o700 });
  return path;
}

test.for([
  ['10.0.2', 'microvm'],
  ['11.1.0', 'microvm'],
  ['9.2.4', 'q35'],
  ['7.2.22', 'q35'],
] as const)('QEMU %s runs machines of type %s', async ([version, machineType]) => {
  const path = await program(`echo "QEMU emulator version ${version} (Debian 1:${version})"`);
  expect(await findQemu(path)).toEqual({ path, version, machineType });
});

test('a QEMU that is too old, is another program, fails or does not exist is a host_setup error', async () => {
  const old = await program('echo "QEMU emulator version 6.2.0"');
  await expect(findQemu(old)).rejects.toMatchObject({ code: 'host_setup' });
  const other = await program('echo something else');
  await expect(findQemu(other)).rejects.toThrow('is not QEMU');
  const failing = await program('exit 3');
  await expect(findQemu(failing)).rejects.toThrow('exit status 3');
  await expect(findQemu('/nonexistent/qemu')).rejects.toMatchObject({
    code: 'host_setup',
    remedy: expect.stringContaining('bookworm-backports'),
  });
});

test('versions are compared as numbers', () => {
  expect(isAtLeast('10.0.2', 8, 2)).toBe(true);
  expect(isAtLeast('8.2.0', 8, 2)).toBe(true);
  expect(isAtLeast('8.1.9', 8, 2)).toBe(false);
  expect(isAtLeast('7.10.0', 7, 2)).toBe(true);
});
