import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { BLOCK_SIZE, type Build, type BuildStore, LocalBuildStore } from '@torpor/builds';
import { copySparse, dataExtents } from '@torpor/linux';
import { connectPager, type PagerClient } from '@torpor/pager';
import { createQemuDriver } from '@torpor/testkit/vmm';
import { BOOTED, type MicroVm, restoredFrom, type VmmDriver } from '@torpor/vmm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { counted, MachineBench, printed } from './machines.ts';
import { GUEST_MODES, makeTestGuest, type TestGuest } from './test-guest.ts';

const UNPRIVILEGED = { uid: 61_234, gid: 61_234 };

let bench: MachineBench;
let directory: string;
let guest: TestGuest;
let driver: VmmDriver;
let store: BuildStore;
let pager: PagerClient;
let pagerPid: number;

beforeAll(async () => {
  bench = await MachineBench.create();
  directory = await mkdtemp('/tmp/torpor-served-');
  guest = await makeTestGuest(bench.directory, 'bzImage');
  driver = await createQemuDriver();
  store = await LocalBuildStore.open({ directory, dataExtents, copySparse });
  const connection = await connectPager({
    socketPath: join(directory, 'pager'),
    logPath: join(directory, 'pager.log'),
    threads: 1,
  });
  pager = connection.client;
  pagerPid = connection.hello.pid;
});

afterAll(async () => {
  await bench[Symbol.asyncDispose]();
  pager.close();
  process.kill(pagerPid, 'SIGKILL');
  await rm(directory, { recursive: true });
});

/** Commits a paused machine as a build; `parent` is the build that the pager serves it from. */
async function commit(vm: MicroVm, parent?: Build): Promise<Build> {
  const { spec } = vm.description;
  const blockCount = (spec.memoryMiB * 2 ** 20) / BLOCK_SIZE;
  await using staged = await store.stage();
  const base = parent === undefined ? BOOTED : restoredFrom(parent.id);
  const { holes } = await vm.capture(base, {
    statePath: staged.statePath,
    memoryPath: staged.scratchPath,
  });
  expect(holes).toBe(parent === undefined ? 'zero' : 'unchanged');
  await staged.writeMemory({ path: spec.memoryFile, blockCount, holes }, parent);
  await staged.publish({
    producer: {
      torpor: '0.1.0',
      vmm: 'qemu',
      vmmVersion: vm.description.vmmVersion,
      accelerator: vm.description.accelerator,
      machine: 'microvm',
      cpuModel: 'max',
      kernelVersion: 'test',
      envdVersion: 'none',
    },
    vcpus: spec.vcpus,
    memoryMiB: spec.memoryMiB,
    diskMiB: 1,
    artifacts: {},
  });
  return store.get(staged.id);
}

async function restore(build: Build): Promise<MicroVm> {
  const spec = await bench.spec(guest, GUEST_MODES.count, { user: UNPRIVILEGED });
  const socketPath = join(spec.runDirectory, 'uffd');
  await mkdir(spec.runDirectory, { recursive: true });
  const files = await store.open(build);
  await pager.serve({ vm: spec.id, socketPath, ...files.memory });
  const { statePath } = files;
  const memory = { kind: 'userfaultfd', socketPath } as const;
  return bench.track(await driver.restore(spec, { statePath, memory }));
}

/** The resident bytes of a machine's RAM. */
async function resident(vm: MicroVm): Promise<number> {
  return (await stat(vm.description.spec.memoryFile)).blocks * 512;
}

describe('a machine whose memory a page server fills', () => {
  let first: Build;
  let reached: number;

  test('continues from its build, with a small part of its memory', async () => {
    const spec = await bench.spec(guest, GUEST_MODES.count, { user: UNPRIVILEGED });
    const vm = bench.track(await driver.start(spec));
    await printed(vm, 'guest: count 3\r');
    await vm.pause();
    reached = await counted(vm);
    first = await commit(vm);
    await vm.kill();

    const restored = await restore(first);
    await restored.resume();
    await printed(restored, `guest: count ${reached + 5}\r`);
    expect(await resident(restored)).toBeLessThan((spec.memoryMiB * 2 ** 20) / 4);
    await restored.pause();
    reached = await counted(restored);
    const second = await commit(restored, first);
    const { memory } = await store.open(second);
    const stored = (await stat(memory.diffPaths[second.id] ?? '')).size;
    expect(stored).toBeLessThanOrEqual(await resident(restored));
    await restored.kill();

    const again = await restore(second);
    await again.resume();
    await printed(again, `guest: count ${reached + 3}\r`);
    expect((await again.readConsole(65_536)).toString()).not.toContain('guest: ready');
    await again.kill();
  });

  test('is copied any number of times, each with its own memory', async () => {
    const [one, two] = [await restore(first), await restore(first)];
    await one.resume();
    await printed(one, /guest: count \d+\r/);
    await two.resume();
    await printed(two, /guest: count \d+\r/);
    await one.kill();
    await two.kill();
    expect(await readdir(join(directory, 'builds'))).toHaveLength(2);
  });

  test('does not start when no page server responds, and nothing is left of it', async () => {
    const spec = await bench.spec(guest, GUEST_MODES.count);
    const { statePath } = await store.open(first);
    const restoring = driver.restore(spec, {
      statePath,
      memory: { kind: 'userfaultfd', socketPath: join(spec.runDirectory, 'no-server') },
    });
    await expect(restoring).rejects.toThrow(/connecting to the page server/);
    expect(await bench.leftovers(spec)).toEqual([]);
  });
});
