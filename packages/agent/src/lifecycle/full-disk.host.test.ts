import { mkdtemp, rm, rmdir, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from '@torpor/linux';
import { request, StubHost } from '@torpor/testkit/agent';
import { expect, onTestFinished, test } from 'vitest';
import { SandboxRegistry } from '../registry/registry.ts';
import { createSandbox } from './create.ts';
import { destroySandbox } from './destroy.ts';

async function fill(path: string): Promise<void> {
  for (const size of [65_536, 4_096, 1]) {
    for (let count = 0; ; count++) {
      try {
        await writeFile(`${path}.${size}.${count}`, Buffer.alloc(size));
      } catch (error) {
        expect(error).toMatchObject({ code: 'ENOSPC' });
        break;
      }
    }
  }
}

test('on a full disk nothing can be created, a lost VMM is reported, and destroying makes room', async () => {
  const small = await mkdtemp(join(tmpdir(), 'torpor-full-'));
  await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=1m,nr_inodes=2000', 'torpor-test', small]);
  onTestFinished(async () => {
    await runCommand('umount', [small]);
    await rmdir(small);
  });
  await using host = await StubHost.open(join(small, 'data'));
  const registry = host.manage(new SandboxRegistry(host.parts()));
  const [first, second] = await Promise.all([
    createSandbox(registry, request()),
    createSandbox(registry, request()),
  ]);
  for (const { record } of [first, second]) {
    await writeFile(host.layout.upperDisk(record.id), Buffer.alloc(32_768));
  }
  await fill(join(small, 'ballast'));

  await expect(createSandbox(registry, request())).rejects.toMatchObject({
    code: 'disk_full',
  });
  expect(registry.list()).toHaveLength(2);

  const [pid] = host.driver.living();
  if (pid === undefined) throw new Error('no VMM');
  process.kill(pid, 'SIGKILL');
  await expect
    .poll(
      () =>
        registry
          .list()
          .map(({ state }) => state)
          .toSorted(),
      { timeout: 10_000 },
    )
    .toEqual(['error', 'running']);

  for (const { record } of [first, second]) {
    await destroySandbox(registry, record.id);
    await expect(stat(host.layout.upperDisk(record.id))).rejects.toMatchObject({ code: 'ENOENT' });
  }
  expect(await host.leftovers()).toEqual([]);
  await rm(join(small, 'data'), { recursive: true });
});
