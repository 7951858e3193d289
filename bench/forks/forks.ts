import { copyFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Sandbox } from '@torpor/sdk';
import type { Benchmark, BenchmarkContext } from '../harness/benchmark.ts';
import { FrozenGuest } from '../support/frozen-guest.ts';
import type { Platform } from '../support/platform.ts';
import { listProcesses, totalCpuSeconds, uniqueMiB } from '../support/processes.ts';
import { BareQemu } from './bare-qemu.ts';

const FORKS = 20;
const QUICK_FORKS = 2;

export const forks: Benchmark = {
  name: 'forks',
  title: 'Twenty forks: processor time and memory of each, and of bare `qemu -incoming`',
  method:
    `A sandbox of 512 MiB is forked ${FORKS} times with one call (${QUICK_FORKS} in a quick run), then \`true\` is run in each fork through the API. The same ` +
    'paused guest is written to a file as a migration stream with all its RAM, and as many bare QEMU processes load that file, ' +
    'two at a time, with no pager, agent or control plane, and run `true` through envd. All machines stay alive until the last has ' +
    'responded. Processor time is user and system time: of the forks’ QEMU processes and what `torpor up` and the pager used meanwhile (that of the ' +
    'machine which is forked is left out), against that of the bare QEMU processes; unique memory is what a process does not share ' +
    '(Private_Clean + Private_Dirty of /proc/PID/smaps_rollup, guest RAM included), with what the pager grew by.',
  series: {
    'cpu-fork': { title: 'processor time of a fork', unit: 'ms' },
    'cpu-bare': { title: 'processor time of a bare QEMU', unit: 'ms' },
    'memory-fork': { title: 'unique memory of a fork', unit: 'MiB' },
    'memory-bare': { title: 'unique memory of a bare QEMU', unit: 'MiB' },
    'time-fork': { title: 'from the call until the last fork has responded', unit: 'ms' },
    'time-bare': {
      title: 'from the first start until the last bare QEMU has responded',
      unit: 'ms',
    },
    'cpu-fork:qemu': { title: 'of a fork’s processor time: its QEMU', unit: 'ms' },
    'cpu-fork:torpor': { title: 'of a fork’s processor time: `torpor up`', unit: 'ms' },
    'cpu-fork:pager': { title: 'of a fork’s processor time: the pager', unit: 'ms' },
  },
  comparisons: [
    { title: 'processor time of a fork ÷ of a bare QEMU', of: 'cpu-fork', to: 'cpu-bare' },
    { title: 'unique memory of a fork ÷ of a bare QEMU', of: 'memory-fork', to: 'memory-bare' },
    { title: 'time until all have responded, forks ÷ bare QEMU', of: 'time-fork', to: 'time-bare' },
  ],
  costs: (measured) => [
    {
      title: 'The processor time of a fork',
      costs: ['qemu', 'torpor', 'pager'].map((part) => ({
        title: forks.series[`cpu-fork:${part}`]?.title ?? part,
        value: measured.median(`cpu-fork:${part}`),
        unit: 'ms' as const,
        how: 'utime + stime of /proc/PID/stat',
      })),
    },
  ],
  async run(context) {
    const platform = await context.shared.platform();
    await using stack = new AsyncDisposableStack();
    context.progress('freezing a sandbox');
    const guest = stack.use(await FrozenGuest.freeze(platform));
    const stream = await writeStream(guest);
    context.note(
      `The migration stream has ${Math.round((await stat(stream)).size / 2 ** 20)} MiB.`,
    );
    const source = await platform.create();
    stack.defer(() => source.destroy());
    await source.exec('true');
    const count = context.quick ? QUICK_FORKS : FORKS;
    const rounds = context.quick ? 1 : 3;
    for (let round = 0; round < rounds; round++) {
      context.progress(`round ${round + 1} of ${rounds}: ${count} forks`);
      await measureForks(context, round, platform, source, count);
      context.progress(`round ${round + 1} of ${rounds}: ${count} times bare QEMU`);
      await measureBare(context, round, guest, stream, count);
    }
  },
};

/** Writes the machine as QEMU itself would save it, RAM included. */
async function writeStream(guest: FrozenGuest): Promise<string> {
  await using slot = await guest.slot();
  const spec = await guest.machine(slot);
  await copyFile(guest.imagePath, spec.memoryFile);
  await using qemu = await BareQemu.waiting(spec, 'file');
  await qemu.load(guest.files.statePath, { withoutMemory: true });
  const path = join(guest.directory, 'stream');
  await qemu.save(path);
  return path;
}

async function measureForks(
  context: BenchmarkContext,
  round: number,
  platform: Platform,
  source: Sandbox,
  count: number,
): Promise<void> {
  const before = await platformProcesses(platform);
  const pagerBefore = await pagerUsage(before.pager);
  const torporBefore = await totalCpuSeconds(platform.pid);
  const start = performance.now();
  const { sandboxes, errors } = await source.fork(count);
  try {
    if (errors[0] !== undefined) throw errors[0];
    await Promise.all(sandboxes.map((sandbox) => sandbox.exec('true')));
    context.record('time-fork', round, performance.now() - start);
    const after = await platformProcesses(platform);
    const children = after.qemu.filter((pid) => !before.qemu.includes(pid));
    const qemu = await sum(children, totalCpuSeconds);
    const torpor = (await totalCpuSeconds(platform.pid)) - torporBefore;
    const pagerAfter = await pagerUsage(after.pager);
    const pager = pagerAfter.cpuSeconds - pagerBefore.cpuSeconds;
    const perFork = (seconds: number) => (seconds * 1000) / count;
    context.record('cpu-fork', round, perFork(qemu + torpor + pager));
    context.record('cpu-fork:qemu', round, perFork(qemu));
    context.record('cpu-fork:torpor', round, perFork(torpor));
    context.record('cpu-fork:pager', round, perFork(pager));
    const pagerMiB = Math.max(0, pagerAfter.uniqueMiB - pagerBefore.uniqueMiB);
    context.record('memory-fork', round, ((await sum(children, uniqueMiB)) + pagerMiB) / count);
  } finally {
    for (const sandbox of sandboxes) await sandbox.destroy();
  }
}

async function measureBare(
  context: BenchmarkContext,
  round: number,
  guest: FrozenGuest,
  stream: string,
  count: number,
): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const places = [];
  for (let index = 0; index < count; index++) {
    const slot = stack.use(await guest.slot());
    places.push({ slot, spec: await guest.machine(slot) });
  }
  const machines: BareQemu[] = [];
  const start = performance.now();
  const waiting = places.values();
  const worker = async () => {
    for (const { slot, spec } of waiting) {
      const qemu = stack.use(await BareQemu.waiting(spec, 'anonymous'));
      machines.push(qemu);
      await qemu.load(stream, { withoutMemory: false });
      await qemu.run();
      await guest.firstExec(slot);
    }
  };
  await Promise.all([worker(), worker()]);
  context.record('time-bare', round, performance.now() - start);
  const pids = machines.map(({ pid }) => pid);
  context.record('cpu-bare', round, ((await sum(pids, totalCpuSeconds)) * 1000) / count);
  context.record('memory-bare', round, (await sum(pids, uniqueMiB)) / count);
}

interface PlatformProcesses {
  readonly qemu: readonly number[];
  readonly pager: number | undefined;
}

async function platformProcesses({ dataDir }: Platform): Promise<PlatformProcesses> {
  const ours = (await listProcesses()).filter(({ commandLine }) => commandLine.includes(dataDir));
  const matching = (pattern: RegExp) =>
    ours.filter(({ commandLine }) => pattern.test(commandLine)).map(({ pid }) => pid);
  return { qemu: matching(/qemu-system/), pager: matching(/\/pager\//)[0] };
}

/** Zero if there is no pager. */
async function pagerUsage(pid: number | undefined) {
  if (pid === undefined) return { cpuSeconds: 0, uniqueMiB: 0 };
  return { cpuSeconds: await totalCpuSeconds(pid), uniqueMiB: await uniqueMiB(pid) };
}

async function sum(pids: readonly number[], value: (pid: number) => Promise<number>) {
  const values = await Promise.all(pids.map(value));
  return values.reduce((total, next) => total + next, 0);
}
