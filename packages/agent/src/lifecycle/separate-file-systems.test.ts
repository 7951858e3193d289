import { mkdir, mkdtemp, open, readFile, rm, stat, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BUILD_FILES } from '@torpor/builds';
import { request, StubHost } from '@torpor/testkit/agent';
import { expect, test } from 'vitest';
import { SandboxRegistry } from '../registry/registry.ts';
import { createSandbox } from './create.ts';
import { destroySandbox } from './destroy.ts';
import { pauseSandbox } from './pause.ts';
import { resumeSandbox } from './resume.ts';

const MIB = 2 ** 20;

test('builds may be on a file system of their own: a disk is copied to it, with its holes', async () => {
  await using stack = new AsyncDisposableStack();
  const dataDir = await mkdtemp(join(tmpdir(), 'torpor-two-disks-'));
  const elsewhere = await mkdtemp('/dev/shm/torpor-two-disks-');
  stack.defer(() => rm(elsewhere, { recursive: true, force: true }));
  await mkdir(join(elsewhere, 'builds'));
  await symlink(join(elsewhere, 'builds'), join(dataDir, 'builds'));
  // Otherwise a hard link would be made, and this would test nothing.
  expect((await stat(dataDir)).dev).not.toBe((await stat(elsewhere)).dev);
  const host = stack.use(await StubHost.open(dataDir));
  const registry = host.manage(new SandboxRegistry(host.parts()));
  const { record } = await createSandbox(registry, request());
  const upperDisk = host.layout.upperDisk(record.id);
  const content = Buffer.alloc(8 * MIB);
  content.fill('written', 5 * MIB, 5 * MIB + 8192);
  {
    await using disk = await open(upperDisk, 'w');
    await disk.truncate(content.length);
    await disk.write(content, 5 * MIB, 8192, 5 * MIB);
  }

  await pauseSandbox(registry, record.id);
  const { state, buildId = '' } = registry.get(record.id);
  expect(state).toBe('paused');
  const kept = host.builds.path(buildId, BUILD_FILES.disk);
  expect((await readFile(kept)).equals(content)).toBe(true);
  expect((await stat(kept)).blocks * 512).toBeLessThan(MIB);
  await expect(stat(upperDisk)).rejects.toMatchObject({ code: 'ENOENT' });

  await resumeSandbox(registry, record.id);
  expect((await readFile(upperDisk)).equals(content)).toBe(true);
  await destroySandbox(registry, record.id);
  expect(await host.leftovers()).toEqual([]);
});
