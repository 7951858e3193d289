import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { readRecord, writeRecord } from './record.ts';

/** As Torpor wrote it before records had a dirty base: `memory` and `machine` differ. */
const VERSION_1 = {
  formatVersion: 1,
  id: 'sb0123456789abcdefghij',
  state: 'running',
  spec: {
    vcpus: 1,
    memoryMiB: 512,
    diskSizeMiB: 5120,
    timeoutSec: 300,
    teamId: 'team_0123456789abcdefghij',
    templateId: 'base',
    defaultUser: '',
    allowInternet: true,
    autoPause: false,
    hostname: 'sb0123456789abcdefghij',
  },
  uid: 904_096,
  createdAt: 1_795_854_182_000,
  lastActiveAt: 1_795_854_190_000,
  slot: { index: 3, hostAddress: '10.201.0.7' },
  machine: {
    driver: 'firecracker',
    vmmVersion: '1.16.1',
    accelerator: 'kvm',
    pid: 4711,
    startTimeTicks: '123456',
    spec: {
      id: 'sb0123456789abcdefghij',
      vcpus: 1,
      memoryMiB: 512,
      kernelPath: '/var/lib/torpor/kernels/0123/vmlinux',
      initramfsPath: '/var/lib/torpor/initramfs/0123/initramfs',
      kernelArguments: ['quiet'],
      drives: [
        { id: 'base', path: '/var/lib/torpor/images/0123/base.ext4', readOnly: true },
        { id: 'agent', path: '/var/lib/torpor/agent-drives/0123/agent.ext4', readOnly: true },
        { id: 'upper', path: '/var/lib/torpor/sandboxes/sb/disk.img', readOnly: false },
      ],
      network: { namespace: 'tp-abc123-3', tapDevice: 'tap0', macAddress: '02:fc:00:00:00:05' },
      runDirectory: '/var/lib/torpor/run/sb',
      memoryFile: '/dev/shm/torpor-abc123/sb.ram',
      console: { path: '/var/lib/torpor/sandboxes/sb/console.log', maxBytes: 1_048_576 },
      user: { uid: 904_096, gid: 904_096 },
    },
  },
  memory: {},
  metadata: { envd_version: '0.6.4', vmm: 'firecracker' },
};

const { defaultUser: _empty, ...named } = VERSION_1.spec;
/** Early records had no labels, and an empty user in place of none. */
const SPEC = { ...named, labels: {} };

const BUILD = '0199a0de-0000-7000-8000-000000000001';

async function recordFile(content: unknown): Promise<string> {
  const directory = await mkdtemp('/tmp/torpor-record-');
  onTestFinished(() => rm(directory, { recursive: true }));
  const path = join(directory, 'sandbox.json');
  await writeFile(path, JSON.stringify(content, undefined, 2));
  return path;
}

test.each<[string, object, object, string]>([
  ['booted', { parentSnapshot: 0 }, { base: { kind: 'zeros' } }, 'zeros'],
  [
    'booted and kept',
    { parentId: BUILD, parentSnapshot: 1 },
    { base: { kind: 'build', buildId: BUILD, number: 1 } },
    'zeros',
  ],
  [
    'restored',
    { parentId: BUILD, parentSnapshot: 0, servedAs: 'sb-1' },
    { base: { kind: 'build', buildId: BUILD, number: 0 }, servedAs: 'sb-1' },
    'userfaultfd',
  ],
  [
    'restored in QEMU, or whose number was lost',
    { parentId: BUILD, servedAs: 'sb-1' },
    { base: { kind: 'unknown', buildId: BUILD }, servedAs: 'sb-1' },
    'userfaultfd',
  ],
  ['booted in QEMU', {}, { base: { kind: 'unknown' } }, 'zeros'],
])(
  'a record of version 1 of a machine that was %s is read',
  async (_, old, memory, memoryOrigin) => {
    const path = await recordFile({ ...VERSION_1, memory: old });
    const record = await readRecord(path);
    expect(record).toEqual({
      ...VERSION_1,
      formatVersion: 2,
      spec: SPEC,
      machine: { ...VERSION_1.machine, memoryOrigin },
      memory,
    });
    if (record === undefined) throw new Error('it was not read');
    await writeRecord(path, record);
    expect(await readRecord(path)).toEqual(record);
  },
);

test('a record of version 1 without a machine is read', async () => {
  const { machine: _machine, memory: _memory, slot: _slot, ...rest } = VERSION_1;
  const paused = { ...rest, state: 'paused', buildId: BUILD, lastSlotIndex: 3 };
  expect(await readRecord(await recordFile(paused))).toEqual({
    ...paused,
    formatVersion: 2,
    spec: SPEC,
  });
});

test('a record without labels is read, and one with labels keeps them', async () => {
  const { machine: _machine, memory: _memory, slot: _slot, ...rest } = VERSION_1;
  const without = { ...rest, formatVersion: 2, state: 'paused', buildId: BUILD };
  expect(await readRecord(await recordFile(without))).toEqual({ ...without, spec: SPEC });
  const spec = { ...SPEC, defaultUser: 'user', labels: { project: 'demo' } };
  const path = await recordFile({ ...without, spec });
  const record = await readRecord(path);
  expect(record?.spec).toEqual(spec);
});

test.each<[string, object]>([
  ['of a later version', { ...VERSION_1, formatVersion: 3 }],
  ['of version 1 with a field that it did not have', { ...VERSION_1, colour: 'green' }],
  ['of version 1 with memory of another shape', { ...VERSION_1, memory: { parent: BUILD } }],
])('a record %s is refused', async (_, content) => {
  await expect(readRecord(await recordFile(content))).rejects.toMatchObject({ code: 'host_setup' });
});
