import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { computeKey, ensureArtifact, listArtifacts } from './artifact-cache.ts';
import { pruneGuestArtifacts } from './prune.ts';

test('what is current or in use stays, the rest goes', async () => {
  const cacheDir = await mkdtemp(join(tmpdir(), 'prune-'));
  try {
    const make = (kind: string, name: string, file: string) =>
      ensureArtifact({
        directory: join(cacheDir, kind),
        key: computeKey({ name }),
        build: (staging) => writeFile(join(staging, file), ''),
      });
    const drives = [];
    for (const name of ['old', 'used', 'current']) {
      drives.push(await make('agent-drives', name, 'agent.ext4'));
    }
    const [old = '', used = '', current = ''] = drives;
    const kernel = await make('kernels', 'kernel', 'vmlinux');
    const initramfs = await make('initramfs', 'initramfs', 'initramfs.cpio');
    const removed = await pruneGuestArtifacts({
      cacheDir,
      current: {
        kernel: {
          version: '6.12',
          bzImagePath: join(kernel, 'vmlinuz'),
          vmlinuxPath: join(kernel, 'vmlinux'),
          qemuPath: join(kernel, 'vmlinux'),
        },
        initramfsPath: join(initramfs, 'initramfs.cpio'),
        agentDrivePath: join(current, 'agent.ext4'),
        agentDriveKey: 'key',
        envdVersion: '1',
        nodeVersion: '26',
      },
      isInUse: (path) => path === join(used, 'agent.ext4'),
    });
    expect(removed).toEqual([old]);
    expect(await listArtifacts(join(cacheDir, 'agent-drives'))).toHaveLength(2);
    expect(await listArtifacts(join(cacheDir, 'kernels'))).toHaveLength(1);
    expect(await listArtifacts(join(cacheDir, 'initramfs'))).toHaveLength(1);
  } finally {
    await rm(cacheDir, { recursive: true });
  }
});
