import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import type { NetworkSlot } from '@torpor/agent/testing';
import { connectPager, type PagerClient } from '@torpor/pager';
import { createQemuDriver } from '@torpor/testkit/vmm';
import type { MicroVm, RestoreSource, VmmDriver } from '@torpor/vmm';
import type { Benchmark } from '../harness/benchmark.ts';
import { interleave } from '../harness/interleave.ts';
import { FrozenGuest } from '../support/frozen-guest.ts';
import { cpuSeconds } from '../support/processes.ts';

export const restore: Benchmark = {
  name: 'restore',
  title: 'Restoring a sandbox: pager, and the kernel’s own mapping of a file',
  method:
    'A sandbox that has run a few programs is paused. By turns its machine is restored, past control plane and host agent, with its memory ' +
    'served by the pager, without and with the working set that an earlier restore recorded, and with its memory a private mapping of a file ' +
    'that is in the page cache, on a disk file system and on tmpfs; from the start of QEMU until `true` has run in the guest, started through envd. ' +
    'RAM that the pager fills is on tmpfs, in pages of 4 KiB, while a disk file system may keep a file in larger pieces: the mapping on tmpfs ' +
    'tells whether that makes a difference.',
  series: {
    faults: { title: 'pager, faults only', unit: 'ms' },
    prefetch: { title: 'pager, working set prefetched', unit: 'ms' },
    file: { title: 'private mapping of a cached file', unit: 'ms' },
    tmpfs: { title: 'private mapping of a file on tmpfs', unit: 'ms' },
    'faults:restored': { title: 'of that, until QEMU has the state (faults only)', unit: 'ms' },
    'prefetch:restored': { title: 'of that, until QEMU has the state (prefetched)', unit: 'ms' },
    'file:restored': { title: 'of that, until QEMU has the state (file)', unit: 'ms' },
    'prefetch:cpu': { title: 'processor time of QEMU in user mode (prefetched)', unit: 'ms' },
    'file:cpu': { title: 'processor time of QEMU in user mode (file)', unit: 'ms' },
    'tmpfs:cpu': { title: 'processor time of QEMU in user mode (file on tmpfs)', unit: 'ms' },
    'faults:count': { title: 'faults served, faults only', unit: 'count' },
    'prefetch:count': { title: 'faults served, prefetched', unit: 'count' },
    'faults:loaded': { title: 'RAM loaded, faults only', unit: 'MiB' },
    'prefetch:loaded': { title: 'RAM loaded, prefetched', unit: 'MiB' },
  },
  comparisons: [
    {
      title: 'prefetched ÷ mapped file',
      of: 'prefetch',
      to: 'file',
      aim: { atMost: 1 },
    },
    { title: 'prefetched ÷ mapped file on tmpfs', of: 'prefetch', to: 'tmpfs' },
    { title: 'mapped file on tmpfs ÷ mapped file', of: 'tmpfs', to: 'file' },
    { title: 'faults only ÷ mapped file', of: 'faults', to: 'file' },
    { title: 'prefetched ÷ faults only', of: 'prefetch', to: 'faults' },
  ],
  costs(measured) {
    const qemu = measured.median('file:restored');
    const guest = measured.median('file') - qemu;
    const onTmpfs = Math.max(0, measured.median('tmpfs') - measured.median('file'));
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
            title: 'the guest, until the program has run',
            value: guest,
            unit: 'ms',
            how: 'program run − state loaded, with a mapped file',
          },
          {
            title: 'RAM in the small pages of tmpfs',
            value: onTmpfs,
            unit: 'ms',
            how: 'a mapped file on tmpfs − one on a disk file system',
          },
          {
            title: 'the guest waiting for the pager, or for the processor that the pager uses',
            value: Math.max(0, served - guest - onTmpfs),
            unit: 'ms',
            how: 'what is left',
          },
        ],
      },
    ];
  },
  async run(context) {
    await using stack = new AsyncDisposableStack();
    context.progress('freezing a sandbox');
    const guest = stack.use(await FrozenGuest.freeze(await context.shared.platform()));
    const { client: pager } = await connectPager({
      socketPath: join(guest.directory, 'pager'),
      logPath: join(guest.directory, 'pager.log'),
      threads: 1,
    });
    stack.defer(async () => {
      await pager.shutdown();
      await pager.closed;
    });
    const slot = stack.use(await guest.slot());
    const tmpfsImagePath = await guest.imageOnTmpfs();
    const restorer = new Restorer(guest, slot, await createQemuDriver(), pager);
    let round = context.quick ? 0 : -1;
    const keep = (series: string, values: Readonly<Record<string, number>>) => {
      for (const [name, value] of Object.entries(values)) {
        if (round >= 0) context.record(`${series}:${name}`, round, value);
      }
    };
    const served = async (series: string, workingSet: readonly number[]) => {
      const result = await restorer.served(workingSet);
      const { restoredMs: restored, faults: count, loadedMiB: loaded } = result;
      keep(series, { restored, count, loaded });
      if (series === 'prefetch') keep(series, { cpu: result.userMs });
      return result.totalMs;
    };
    const { workingSet } = await restorer.served([]);
    await interleave(
      context,
      context.quick ? 2 : 10,
      {
        faults: () => served('faults', []),
        prefetch: () => served('prefetch', workingSet),
        file: async () => {
          const { totalMs, restoredMs, userMs } = await restorer.mapped(guest.imagePath);
          keep('file', { restored: restoredMs, cpu: userMs });
          return totalMs;
        },
        tmpfs: async () => {
          const { totalMs, userMs } = await restorer.mapped(tmpfsImagePath);
          keep('tmpfs', { cpu: userMs });
          return totalMs;
        },
      },
      () => {
        round++;
      },
    );
  },
};

interface Restored {
  readonly totalMs: number;
  readonly restoredMs: number;
  /** Processor time of QEMU in user mode: the guest, emulated. */
  readonly userMs: number;
}

class Restorer {
  readonly #guest: FrozenGuest;
  readonly #slot: NetworkSlot;
  readonly #driver: VmmDriver;
  readonly #pager: PagerClient;

  constructor(guest: FrozenGuest, slot: NetworkSlot, driver: VmmDriver, pager: PagerClient) {
    this.#guest = guest;
    this.#slot = slot;
    this.#driver = driver;
    this.#pager = pager;
  }

  /** Restores with memory that the kernel maps from a file. */
  mapped(path: string): Promise<Restored> {
    const memory = { kind: 'file', path } as const;
    return this.#untilFirstExec(memory, async () => undefined);
  }

  /** Restores with memory from the pager. */
  async served(workingSet: readonly number[]) {
    const { files, directory } = this.#guest;
    const vm = randomUUID().slice(0, 8);
    const socketPath = join(directory, vm);
    await this.#pager.serve({ vm, socketPath, ...files.memory, workingSet });
    let description: Awaited<ReturnType<PagerClient['describe']>> | undefined;
    const times = await this.#untilFirstExec({ kind: 'userfaultfd', socketPath }, async () => {
      description = await this.#pager.describe(vm);
    });
    await this.#pager.stop(vm);
    if (description === undefined) throw new Error('The pager returned no description.');
    const { faults, faultBytes, prefetchBytes } = description.statistics;
    const loadedMiB = (faultBytes + prefetchBytes) / 2 ** 20;
    return { ...times, faults, loadedMiB, workingSet: description.workingSet };
  }

  async #untilFirstExec(
    memory: RestoreSource['memory'],
    whileItLives: (vm: MicroVm) => Promise<void>,
  ): Promise<Restored> {
    const spec = await this.#guest.machine(this.#slot);
    const start = performance.now();
    const vm = await this.#driver.restore(spec, { statePath: this.#guest.files.statePath, memory });
    try {
      const restoredMs = performance.now() - start;
      await vm.resume();
      await this.#guest.firstExec(this.#slot);
      const totalMs = performance.now() - start;
      const { user } = await cpuSeconds(vm.description.pid);
      await whileItLives(vm);
      return { totalMs, restoredMs, userMs: user * 1000 };
    } finally {
      await vm.kill();
      await vm.exited;
    }
  }
}
