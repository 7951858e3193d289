import type { Sandbox } from '@torpor/sdk';
import type { Benchmark, BenchmarkContext, Cost } from '../harness/benchmark.ts';
import { interleave } from '../harness/interleave.ts';
import type { Measurements } from '../harness/measurements.ts';
import type { Platform } from '../support/platform.ts';
import { buildIdOf, newestBuildId, storedMemoryBytes } from '../support/stored-builds.ts';
import { WorkingSetFile } from '../support/working-set.ts';

const DIRTY_MIB = 32;
const LAST_GENERATION = 10;
/** For a quick run, which only shows that the benchmark works. */
const QUICK_LAST_GENERATION = 3;
const RAM_SIZES_MIB = [512, 1024] as const;
const MIB = 2 ** 20;
/** The phases of a create that keep the booted guest for later creates. */
const KEEPING_PHASES = ['state', 'memory', 'publish'];

/** Writes random bytes that stay in memory: /dev/shm is in the guest's RAM. */
const DIRTY_SCRIPT = `head -c ${DIRTY_MIB}M /dev/urandom > /dev/shm/dirty-$1`;

export const lifecycle: Benchmark = {
  name: 'lifecycle',
  title: 'From template to first response, and what a pause writes',
  method:
    'A sandbox is started, used, paused and made a template (generation 1), then resumed and paused until its memory has ten ' +
    'generations, and made another template. By turns a sandbox is created by a cold boot, from the first template with and without its recorded working set, ' +
    'and from the second; each time until the first `true` has run. A pause is measured after the guest wrote ' +
    `${DIRTY_MIB} MiB of random bytes to its memory, and right before that after it wrote none: what the second wrote beyond ` +
    `the first is compared with the ${DIRTY_MIB} MiB.`,
  series: {
    cold: { title: 'cold boot → first exec', unit: 'ms' },
    template: { title: 'from template, prefetch → first exec', unit: 'ms' },
    'template-faults': { title: 'from template, no prefetch → first exec', unit: 'ms' },
    'generation-10': { title: 'from template of generation 10, prefetch → first exec', unit: 'ms' },
    'phase:*': { title: 'phase of a create from template', unit: 'ms' },
    'phase-10:*': { title: 'phase of a create from template of generation 10', unit: 'ms' },
    'first-exec': { title: 'of a create from template, the first exec', unit: 'ms' },
    'first-exec-10': {
      title: 'of a create from template of generation 10, the first exec',
      unit: 'ms',
    },
    'pause:*': { title: 'phase of a pause with dirty memory', unit: 'ms' },
    ...Object.fromEntries(
      RAM_SIZES_MIB.flatMap((ram) => [
        [`dirtied-${ram}`, { title: `written by the guest, ${ram} MiB RAM`, unit: 'MiB' as const }],
        [`idle-${ram}`, { title: `stored by an idle pause, ${ram} MiB RAM`, unit: 'MiB' as const }],
        [
          `stored-${ram}`,
          { title: `stored for what was written, ${ram} MiB RAM`, unit: 'MiB' as const },
        ],
        [`pause-${ram}`, { title: `pause, ${ram} MiB RAM`, unit: 'ms' as const }],
      ]),
    ),
  },
  comparisons: [
    {
      title: 'cold boot ÷ create from template',
      of: 'cold',
      to: 'template',
      aim: { atLeast: 10 },
    },
    { title: 'prefetch ÷ faults only', of: 'template', to: 'template-faults' },
    {
      title: 'generation 10 ÷ generation 1',
      of: 'generation-10',
      to: 'template',
      aim: { atMost: 1.15 },
    },
    ...RAM_SIZES_MIB.map((ram) => ({
      title: `bytes stored by a pause ÷ bytes written, ${ram} MiB RAM`,
      of: `stored-${ram}`,
      to: `dirtied-${ram}`,
      aim: { atMost: 1.2 },
    })),
  ],
  costs: (measured) => [
    {
      title: 'A create from a template, and the first exec',
      costs: [...phaseCosts(measured, 'phase:'), firstExecCost(measured, 'first-exec')],
    },
    {
      title: 'The same from the template of generation 10',
      costs: [...phaseCosts(measured, 'phase-10:'), firstExecCost(measured, 'first-exec-10')],
    },
    {
      title: `A pause with ${DIRTY_MIB} MiB of dirty memory`,
      costs: phaseCosts(measured, 'pause:'),
    },
  ],
  async run(context) {
    const platform = await context.shared.platform();
    await measurePauses(context, platform);
    await measureCreates(context, platform);
  },
};

/** Measures how much a pause stores and how long it takes, after the guest wrote to its memory and without writes. */
async function measurePauses(context: BenchmarkContext, platform: Platform): Promise<void> {
  for (const ram of RAM_SIZES_MIB) {
    context.progress(`pauses with ${ram} MiB of RAM`);
    await using sandbox = await platform.create({ memoryMiB: ram });
    await settle(sandbox);
    for (let round = 0; round < (context.quick ? 1 : 3); round++) {
      await sandbox.exec('true');
      await sandbox.pause();
      const idle = await storedMiB(platform, sandbox);
      await sandbox.resume();
      await sandbox.exec('sh', ['-c', DIRTY_SCRIPT, 'sh', String(round)]);
      const start = performance.now();
      const { timings } = await sandbox.pause();
      context.record(`pause-${ram}`, round, performance.now() - start);
      context.record(`dirtied-${ram}`, round, DIRTY_MIB);
      context.record(`idle-${ram}`, round, idle);
      const stored = await storedMiB(platform, sandbox);
      context.record(`stored-${ram}`, round, stored - idle);
      for (const { phase, milliseconds } of timings ?? []) {
        if (ram === RAM_SIZES_MIB[0]) context.record(`pause:${phase}`, round, milliseconds);
      }
      await sandbox.resume();
    }
  }
}

/** Measures creates by a cold boot and from templates of the first and the last generation, alternately. */
async function measureCreates(context: BenchmarkContext, platform: Platform): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const generations = context.quick ? QUICK_LAST_GENERATION : LAST_GENERATION;
  context.progress(`${generations} generations`);
  const source = await platform.create();
  stack.defer(() => source.destroy());
  await settle(source);
  await source.pause();
  const first = await asTemplate(platform, source, 'generation-1');
  for (let generation = 2; generation <= generations; generation++) {
    await source.resume();
    await source.exec('sh', ['-c', 'head -c 1M /dev/urandom > /dev/shm/generation']);
    await source.pause();
  }
  const last = await asTemplate(platform, source, `generation-${generations}`);

  context.progress('recording the working sets');
  for (const template of [first, last]) {
    await using sandbox = await platform.create({ template: template.name });
    await sandbox.exec('true');
    await template.workingSet.recorded();
  }
  let round = context.quick ? 0 : -1;
  const fromTemplate = async ({ name, workingSet }: Template, prefetch: boolean) => {
    await workingSet.use(prefetch);
    const create = () => platform.create({ template: name });
    return untilFirstExec(create, (timings, firstExecMs) => {
      if (!prefetch || round < 0) return;
      const suffix = name === first.name ? '' : '-10';
      for (const [phase, ms] of timings) context.record(`phase${suffix}:${phase}`, round, ms);
      context.record(`first-exec${suffix}`, round, firstExecMs);
    });
  };
  await interleave(
    context,
    context.quick ? 1 : 7,
    {
      cold: () => untilFirstExec(() => platform.createCold()),
      template: () => fromTemplate(first, true),
      'template-faults': () => fromTemplate(first, false),
      'generation-10': () => fromTemplate(last, true),
    },
    () => {
      round++;
    },
  );
}

interface Template {
  readonly name: string;
  readonly workingSet: WorkingSetFile;
}

/** Runs a program, so that the guest has loaded what it needs for that. */
async function settle(sandbox: Sandbox): Promise<void> {
  for (let count = 0; count < 3; count++) await sandbox.exec('true');
}

async function asTemplate(platform: Platform, source: Sandbox, name: string): Promise<Template> {
  await platform.torpor.snapshots.create(source.id, { name });
  const buildId = await newestBuildId(platform);
  return { name, workingSet: new WorkingSetFile(platform.dataDir, buildId) };
}

type Timings = ReadonlyMap<string, number>;

async function untilFirstExec(
  create: () => Promise<Sandbox>,
  keep: (timings: Timings, firstExecMs: number) => void = () => undefined,
): Promise<number> {
  const start = performance.now();
  await using sandbox = await create();
  const created = performance.now();
  await sandbox.exec('true');
  const end = performance.now();
  const taken = end - start;
  const timings: Timings = new Map(
    (sandbox.info.timings ?? []).map(({ phase, milliseconds }) => [phase, milliseconds]),
  );
  keep(timings, end - created);
  // The first sandbox of a shape is also kept as a build, which is not part of a boot.
  const kept = timings.has('boot') ? KEEPING_PHASES : [];
  return kept.reduce((rest, phase) => rest - (timings.get(phase) ?? 0), taken);
}

function firstExecCost(measured: Measurements, series: string): Cost {
  return {
    title: 'the first exec: a guest whose code is cold runs a program',
    value: measured.median(series),
    unit: 'ms',
    how: 'as the client sees it',
  };
}

function phaseCosts(measured: Measurements, prefix: string): Cost[] {
  return measured.names
    .filter((name) => name.startsWith(prefix) && name !== `${prefix}total`)
    .map((name) => ({
      title: name.slice(prefix.length),
      value: measured.median(name),
      unit: 'ms',
      how: 'timed by the host agent',
    }));
}

/** MiB in the memory file of a paused sandbox's build. */
async function storedMiB(platform: Platform, sandbox: Sandbox): Promise<number> {
  return (await storedMemoryBytes(platform, await buildIdOf(platform, sandbox.id))) / MIB;
}
