import { mkdtemp, open, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  applyChanges,
  BLOCK_SIZE,
  captureMemory,
  type MemoryHeader,
  newBuildId,
  writeMemoryHeader,
  zeroMapping,
} from '@torpor/builds';
import { dataExtents } from '@torpor/linux';
import { connectPager, type PagerClient } from '@torpor/pager';
import { FakeInstallation } from '@torpor/testkit/firecracker';
import {
  type DirtyBase,
  FirecrackerDriver,
  type MachineSpec,
  type MicroVm,
  restoredFrom,
} from '@torpor/vmm';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { counted, MachineBench, printed } from '../machines.ts';
import { GUEST_MODES } from '../test-guest.ts';

// Each machine is a Node process, which starts slowly on a busy host.
vi.setConfig({ testTimeout: 240_000 });

// The fake's RAM is real and registered with userfaultfd, and the pager is the real one.

const USER = { uid: 61_234, gid: 61_234 };
const MEMORY_MIB = 64;
const BLOCKS = (MEMORY_MIB * 2 ** 20) / BLOCK_SIZE;

let fakes: FakeInstallation;
let bench: MachineBench;
let directory: string;
let pager: PagerClient;
let pagerPid: number;

beforeEach(async () => {
  fakes = await FakeInstallation.create();
  bench = await MachineBench.create();
  directory = await mkdtemp('/tmp/torpor-fc-served-');
  const connection = await connectPager({
    socketPath: join(directory, 'pager'),
    logPath: join(directory, 'pager.log'),
    threads: 1,
  });
  pager = connection.client;
  pagerPid = connection.hello.pid;
});

afterEach(async () => {
  await bench[Symbol.asyncDispose]();
  pager.close();
  try {
    process.kill(pagerPid, 'SIGKILL');
  } catch {
    // A test killed it.
  }
  await rm(directory, { recursive: true });
  await fakes[Symbol.asyncDispose]();
});

interface SavedBuild {
  readonly header: MemoryHeader;
  readonly headerPath: string;
  readonly statePath: string;
  /** Bytes of RAM that it stores itself. */
  readonly storedBytes: number;
}

async function specOf(change: Partial<MachineSpec> = {}): Promise<MachineSpec> {
  const kernelPath = join(bench.directory, 'kernel');
  await writeFile(kernelPath, 'the fake reads no kernel');
  const guest = { kernelPath, initramfsPath: kernelPath };
  return bench.spec(guest, GUEST_MODES.count, { memoryMiB: MEMORY_MIB, user: USER, ...change });
}

/** Commits a paused machine: all of its memory, or its writes since it was restored from its parent. */
async function commit(vm: MicroVm, parent?: SavedBuild): Promise<SavedBuild> {
  const id = newBuildId();
  const statePath = join(directory, `${id}.state`);
  const memoryPath = join(directory, `${id}.dump`);
  const base: DirtyBase =
    parent === undefined ? { kind: 'unknown' } : restoredFrom(parent.header.buildId);
  const { holes } = await vm.capture(base, { statePath, memoryPath });
  expect(holes).toBe(parent === undefined ? 'zero' : 'unchanged');
  await using memory = await open(memoryPath);
  await using output = await open(join(directory, id), 'wx');
  const capture = await captureMemory(
    {
      memory,
      blockCount: BLOCKS,
      extents: dataExtents(memory),
      holes,
    },
    output,
  );
  const header: MemoryHeader = {
    generation: (parent?.header.generation ?? -1) + 1,
    buildId: id,
    baseBuildId: parent?.header.baseBuildId ?? id,
    mapping: applyChanges(parent?.header.mapping ?? zeroMapping(BLOCKS), id, capture.changes),
  };
  const headerPath = join(directory, `${id}.header`);
  await writeFile(headerPath, writeMemoryHeader(header));
  return { header, headerPath, statePath, storedBytes: capture.storedBlocks * BLOCK_SIZE };
}

async function restore(driver: FirecrackerDriver, build: SavedBuild): Promise<MicroVm> {
  const spec = await specOf();
  const socketPath = join(spec.runDirectory, 'pages.sock');
  const diffPaths = Object.fromEntries(
    build.header.mapping.builds.map((id) => [id, join(directory, id)]),
  );
  await pager.serve({ vm: spec.id, socketPath, headerPath: build.headerPath, diffPaths });
  const memory = { kind: 'userfaultfd', socketPath } as const;
  return bench.track(await driver.restore(spec, { statePath: build.statePath, memory }));
}

async function printedNothingWrong(vm: MicroVm): Promise<void> {
  const text = (await vm.readConsole(64 * 1024)).toString();
  expect(text).toContain('guest: count');
  expect(text).not.toContain('is wrong');
}

test.each([
  { version: '1.16.1', jailer: false },
  { version: '1.16.1', jailer: true },
  { version: '1.11.0', jailer: false },
])('generations of a machine continue from served pages: %o', async ({ version, jailer }) => {
  const driver = new FirecrackerDriver({
    firecracker: await fakes.install({ version }, { jailer }),
  });
  const source = bench.track(await driver.start(await specOf()));
  await printed(source, 'guest: count 5\r');
  await source.pause();
  let build = await commit(source);
  let reached = await counted(source);
  await source.kill();
  const firstBytes = build.storedBytes;

  for (let generation = 1; generation <= 3; generation++) {
    const vm = await restore(driver, build);
    const { statistics } = await pager.describe(vm.description.spec.id);
    // The load call itself touches RAM; its faults were served while it waited.
    expect(statistics.faults).toBeGreaterThan(0);
    await vm.resume();
    // Long enough to read pages again that an earlier generation has zeroed.
    await printed(vm, `guest: count ${reached + 40}\r`);
    await vm.pause();
    await printedNothingWrong(vm);
    build = await commit(vm, build);
    reached = await counted(vm);
    expect(build.storedBytes).toBeLessThan(firstBytes / 4);
    await vm.kill();
  }

  const [one, two] = [await restore(driver, build), await restore(driver, build)];
  for (const fork of [one, two]) {
    await fork.resume();
    await printed(fork, `guest: count ${reached + 5}\r`);
    await printedNothingWrong(fork);
  }
});

test('a machine whose page server has exited does not start, and reports that', async () => {
  const driver = new FirecrackerDriver({ firecracker: await fakes.install() });
  const vm = bench.track(await driver.start(await specOf()));
  await vm.pause();
  const build = await commit(vm);
  await vm.kill();
  const spec = await specOf();
  const socketPath = join(spec.runDirectory, 'pages.sock');
  await pager.serve({
    vm: spec.id,
    socketPath,
    headerPath: build.headerPath,
    diffPaths: {
      [build.header.buildId]: join(directory, build.header.buildId),
    },
  });
  process.kill(pagerPid, 'SIGKILL');
  await pager.closed;
  const source = {
    statePath: build.statePath,
    memory: { kind: 'userfaultfd', socketPath },
  } as const;
  await expect(driver.restore(spec, source)).rejects.toThrow(/PUT \/snapshot\/load.*ECONNREFUSED/);
  await rm(socketPath, { force: true });
  expect(await bench.leftovers(spec)).toEqual([]);
  await expect(stat(join(spec.runDirectory, 'jail'))).rejects.toThrow('ENOENT');
});
