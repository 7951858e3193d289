import { copyFile, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import {
  applyChanges,
  BLOCK_SIZE,
  captureMemory,
  newBuildId,
  writeMemoryHeader,
  zeroMapping,
} from '@torpor/builds';
import { copySparse, dataExtents } from '@torpor/linux';
import { connectPager, type PagerClient } from '@torpor/pager';
import type { MicroVm, RestoreSource, VmmDriver } from '@torpor/vmm';
import { counted, MachineBench, printed } from '../../tests/vmm/machines.ts';
import createDriver from '../../tests/vmm/qemu-under-test.ts';
import { GUEST_MODES, makeTestGuest, type TestGuest } from '../../tests/vmm/test-guest.ts';
import type { Benchmark } from '../harness/benchmark.ts';
import { interleave } from '../harness/interleave.ts';

const MEMORY_MIB = 512;
const POLL_MS = 2;
const ANSWER_TIMEOUT_MS = 60_000;

export const restore: Benchmark = {
  name: 'restore',
  title: 'Restoring a machine: pager, and the kernel’s own mapping of a file',
  method:
    `A machine of ${MEMORY_MIB} MiB (the project’s kernel, a shell that counts on the console ten times a second) is saved once. ` +
    'By turns it is restored with its memory served by the pager, without and with the working set that an earlier restore recorded, and with ' +
    'its memory a private mapping of a file that is in the page cache; from the start of QEMU to the next number on the console. ' +
    'The guest is in the same instant of its sleep each time.',
  series: {
    faults: { title: 'pager, faults only', unit: 'ms' },
    prefetch: { title: 'pager, working set prefetched', unit: 'ms' },
    file: { title: 'private mapping of a cached file', unit: 'ms' },
    'faults:restored': { title: 'of that, until QEMU has the state (faults only)', unit: 'ms' },
    'prefetch:restored': { title: 'of that, until QEMU has the state (prefetched)', unit: 'ms' },
    'file:restored': { title: 'of that, until QEMU has the state (file)', unit: 'ms' },
    'faults:count': { title: 'faults served, faults only', unit: 'count' },
    'prefetch:count': { title: 'faults served, prefetched', unit: 'count' },
  },
  comparisons: [
    {
      title: 'prefetched ÷ mapped file',
      of: 'prefetch',
      to: 'file',
      aim: { atMost: 1 },
    },
    { title: 'faults only ÷ mapped file', of: 'faults', to: 'file' },
    { title: 'prefetched ÷ faults only', of: 'prefetch', to: 'faults' },
  ],
  costs(measured) {
    const qemu = measured.median('file:restored');
    const guest = measured.median('file') - qemu;
    const served = measured.median('prefetch') - measured.median('prefetch:restored');
    return [
      {
        title: 'A restore with prefetch',
        costs: [
          {
            title: 'starting QEMU and loading the state',
            value: qemu,
            unit: 'ms',
            how: 'until QEMU has the state, with a mapped file',
          },
          {
            title: 'the pager’s part in that',
            value: Math.max(0, measured.median('prefetch:restored') - qemu),
            unit: 'ms',
            how: 'the same with the pager − with a mapped file',
          },
          {
            title: 'the guest, until it answers (up to 100 ms of it sleep)',
            value: guest,
            unit: 'ms',
            how: 'first answer − state loaded, with a mapped file',
          },
          {
            title: 'the guest waiting for the pager, or for the processor that the pager uses',
            value: Math.max(0, served - guest),
            unit: 'ms',
            how: 'the same with the pager − with a mapped file',
          },
        ],
      },
    ];
  },
  async run(context) {
    await using stack = new AsyncDisposableStack();
    const machines = stack.use(await MachineBench.create());
    const directory = await mkdtemp('/tmp/torpor-restore-');
    stack.defer(() => rm(directory, { recursive: true, force: true }));
    const guest = await makeTestGuest(machines.directory, 'bzImage');
    const driver = await createDriver();
    const saved = await save(machines, driver, guest, directory);
    const { client: pager } = await connectPager({
      socketPath: join(directory, 'pager'),
      logPath: join(directory, 'pager.log'),
      threads: 1,
    });
    stack.defer(async () => {
      await pager.shutdown();
      await pager.closed;
    });
    let round = context.quick ? 0 : -1;
    const keep = (series: string, values: Readonly<Record<string, number>>) => {
      for (const [name, value] of Object.entries(values)) {
        if (round >= 0) context.record(`${series}:${name}`, round, value);
      }
    };
    const served = async (series: string, workingSet: readonly number[]) => {
      const result = await restoreServed(machines, driver, guest, saved, pager, workingSet);
      keep(series, { restored: result.restoredMs, count: result.faults });
      return result;
    };
    const recorded = await restoreServed(machines, driver, guest, saved, pager, []);
    await interleave(
      context,
      context.quick ? 2 : 10,
      {
        faults: async () => (await served('faults', [])).totalMs,
        prefetch: async () => (await served('prefetch', recorded.workingSet)).totalMs,
        file: async () => {
          const memory = { kind: 'file', path: saved.imagePath } as const;
          const { vm, ...result } = await untilAnswer(machines, driver, guest, saved, memory);
          await vm.kill();
          keep('file', { restored: result.restoredMs });
          return result.totalMs;
        },
      },
      () => {
        round++;
      },
    );
  },
};

interface SavedMachine {
  readonly statePath: string;
  readonly headerPath: string;
  readonly diffPaths: Readonly<Record<string, string>>;
  /** All of RAM, sparse. */
  readonly imagePath: string;
  readonly upperDisk: string;
  /** What it had counted to. */
  readonly counted: number;
}

async function save(
  machines: MachineBench,
  driver: VmmDriver,
  guest: TestGuest,
  directory: string,
): Promise<SavedMachine> {
  const spec = await machines.spec(guest, GUEST_MODES.count, { memoryMiB: MEMORY_MIB });
  const vm = machines.track(await driver.start(spec));
  await printed(vm, 'guest: count 5\r');
  await vm.pause();
  const statePath = join(directory, 'state');
  await vm.saveState(statePath);
  const id = newBuildId();
  const diffPath = join(directory, 'diff');
  const imagePath = join(directory, 'image');
  const blockCount = (MEMORY_MIB * 2 ** 20) / BLOCK_SIZE;
  await using memory = await open(spec.memoryFile);
  await using diff = await open(diffPath, 'wx');
  const extents = dataExtents(memory);
  const { changes } = await captureMemory({ memory, blockCount, extents, holes: 'zero' }, diff);
  await copySparse(spec.memoryFile, imagePath);
  const headerPath = join(directory, 'header');
  const mapping = applyChanges(zeroMapping(blockCount), id, changes);
  const header = { generation: 0, buildId: id, baseBuildId: id, mapping };
  await writeFile(headerPath, writeMemoryHeader(header));
  const upperDisk = join(directory, 'upper');
  await copyFile(spec.drives[1]?.path ?? '', upperDisk);
  const reached = await counted(vm);
  await vm.kill();
  // Both are to be in the page cache.
  await readFile(imagePath);
  await readFile(diffPath);
  return {
    statePath,
    headerPath,
    diffPaths: { [id]: diffPath },
    imagePath,
    upperDisk,
    counted: reached,
  };
}

interface Answered {
  readonly vm: MicroVm;
  readonly totalMs: number;
  readonly restoredMs: number;
}

async function untilAnswer(
  machines: MachineBench,
  driver: VmmDriver,
  guest: TestGuest,
  saved: SavedMachine,
  memory: RestoreSource['memory'],
): Promise<Answered> {
  const spec = await machines.spec(guest, GUEST_MODES.count, { memoryMiB: MEMORY_MIB });
  await copyFile(saved.upperDisk, spec.drives[1]?.path ?? '');
  const start = performance.now();
  const restored = await driver.restore(spec, { statePath: saved.statePath, memory });
  const vm = machines.track(restored);
  const restoredMs = performance.now() - start;
  await vm.resume();
  const deadline = start + ANSWER_TIMEOUT_MS;
  while ((await counted(vm)) <= saved.counted) {
    if (performance.now() > deadline) throw new Error('The restored machine does not count.');
    await delay(POLL_MS);
  }
  return { vm, totalMs: performance.now() - start, restoredMs };
}

async function restoreServed(
  machines: MachineBench,
  driver: VmmDriver,
  guest: TestGuest,
  saved: SavedMachine,
  pager: PagerClient,
  workingSet: readonly number[],
) {
  const directory = await mkdtemp(join(machines.directory, 'served-'));
  const socketPath = join(directory, 'uffd');
  const { headerPath, diffPaths } = saved;
  const name = directory.slice(directory.lastIndexOf('/') + 1);
  await pager.serve({ vm: name, socketPath, headerPath, diffPaths, workingSet });
  const memory = { kind: 'userfaultfd', socketPath } as const;
  const { vm, ...times } = await untilAnswer(machines, driver, guest, saved, memory);
  const description = await pager.describe(name);
  await vm.kill();
  await pager.stop(name);
  return {
    ...times,
    faults: description.statistics.faults,
    workingSet: description.workingSet,
  };
}
