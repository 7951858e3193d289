import { setTimeout as delay } from 'node:timers/promises';
import type { rest } from '@torpor/protocol';
import type {
  Benchmark,
  BenchmarkContext,
  Comparison,
  SeriesSpec,
  Unit,
} from '../harness/benchmark.ts';
import { timed } from '../harness/interleave.ts';
import { seedSandboxes } from './seed.ts';
import { type RunningControlPlane, Site, type SiteSize } from './site.ts';

const LARGE = { hosts: 200, sandboxesPerHost: 100 };
const QUICK_LARGE = { hosts: 4, sandboxesPerHost: 5 };

interface Plan {
  readonly rounds: number;
  readonly idleMs: number;
  readonly creates: number;
  readonly reads: number;
}

/** A host is listed every 30 s. */
const FULL: Plan = { rounds: 4, idleMs: 30_000, creates: 96, reads: 10 };
const QUICK: Plan = { rounds: 1, idleMs: 500, creates: 4, reads: 2 };
const CONCURRENCY = 16;
/** The agents' default. */
const HEARTBEAT_MS = 10_000;
const QUICK_HEARTBEAT_MS = 100;

interface Measure {
  readonly title: string;
  readonly unit: Unit;
  readonly aim?: Comparison['aim'];
}

/** What grows with the number of hosts, because each does its part. */
const PROPORTIONAL = 12;
const FLAT = 1.5;

const MEASURES = {
  'create-rate': { title: 'creates per second', unit: '1/s', aim: { atLeast: 0.7 } },
  create: { title: 'a create, 16 at a time', unit: 'ms', aim: { atMost: FLAT } },
  'create-alone': { title: 'a create, one at a time', unit: 'ms', aim: { atMost: FLAT } },
  'create-statements': { title: 'statements per create', unit: 'count', aim: { atMost: 1.1 } },
  'create-blocks': { title: 'blocks read per create', unit: 'count', aim: { atMost: FLAT } },
  'create-database': { title: 'database time per create', unit: 'ms', aim: { atMost: FLAT } },
  'create-writes': {
    title: 'transactions that write, per create',
    unit: 'count',
    aim: { atMost: FLAT },
  },
  'create-calls': { title: 'calls to agents per create', unit: 'count', aim: { atMost: 1.1 } },
  destroy: { title: 'a destroy, 16 at a time', unit: 'ms', aim: { atMost: FLAT } },
  get: { title: 'get a sandbox', unit: 'ms', aim: { atMost: FLAT } },
  list: { title: 'list sandboxes, 100 of them', unit: 'ms', aim: { atMost: FLAT } },
  hosts: { title: 'list hosts', unit: 'ms' },
  reconcile: {
    title: 'reconcile all hosts after a start',
    unit: 'ms',
    aim: { atMost: PROPORTIONAL },
  },
  'reconcile-statements': {
    title: 'statements of that',
    unit: 'count',
    aim: { atMost: PROPORTIONAL },
  },
  'reconcile-database': {
    title: 'database time of that',
    unit: 'ms',
    aim: { atMost: PROPORTIONAL },
  },
  'reconcile-processor': {
    title: 'processor time of that',
    unit: 'ms',
    aim: { atMost: PROPORTIONAL },
  },
  'reconcile-block': { title: 'longest block of the event loop in that', unit: 'ms' },
  changes: { title: 'record a change on every host', unit: 'ms', aim: { atMost: PROPORTIONAL } },
  'idle-writes': {
    title: 'transactions that write, at rest',
    unit: '1/s',
    aim: { atMost: PROPORTIONAL },
  },
  'idle-statements': { title: 'statements at rest', unit: '1/s', aim: { atMost: PROPORTIONAL } },
  'idle-database': {
    title: 'database time at rest, per second',
    unit: 'ms',
    aim: { atMost: PROPORTIONAL },
  },
  'idle-processor': {
    title: 'processor time at rest, per second',
    unit: 'ms',
    aim: { atMost: PROPORTIONAL },
  },
  'idle-block': { title: 'longest block of the event loop at rest', unit: 'ms' },
  memory: { title: 'memory of the control plane', unit: 'MiB' },
} satisfies Record<string, Measure>;
type MeasureName = keyof typeof MEASURES;
const NAMES = Object.keys(MEASURES) as MeasureName[];

type Recorder = (name: MeasureName, values: number | readonly number[]) => void;

export const fleet: Benchmark = {
  name: 'fleet',
  title: 'A fleet of ten times the hosts',
  method:
    `${LARGE.hosts} hosts and ${LARGE.hosts * LARGE.sandboxesPerHost} running sandboxes of one team with quotas, and a tenth of both. The hosts have joined over TLS, each with a ` +
    'certificate and a port of its own, and have no virtual machines: their agents respond at once. Each size has its own embedded PostgreSQL, whose load is ' +
    'that of pg_stat_statements; the agents of a size are one process. By turns a control plane with the default settings is started on each (only that it gives a silent host up after two minutes, because the machine that measures may be busy): it is measured how long until it has recorded that ' +
    'meanwhile a sandbox had failed on every host, then how long until it has recorded that these run again, then what it does for ' +
    `${FULL.idleMs / 1000} s while nobody asks for anything, and then ${FULL.creates} creates and destroys, ${CONCURRENCY} at a time.`,
  series: Object.fromEntries(
    NAMES.flatMap((name): [string, SeriesSpec][] => {
      const { title, unit } = MEASURES[name];
      return [
        [`${name}-large`, { title: `${title}: ${LARGE.hosts} hosts`, unit }],
        [`${name}-small`, { title: `${title}: a tenth`, unit }],
      ];
    }),
  ),
  comparisons: NAMES.map((name) => {
    const { title, aim }: Measure = MEASURES[name];
    return {
      title: `${title}: ${LARGE.hosts} hosts ÷ a tenth`,
      of: `${name}-large`,
      to: `${name}-small`,
      ...(aim === undefined ? {} : { aim }),
    };
  }),
  costs: () => [],
  async run(context) {
    const plan = context.quick ? QUICK : FULL;
    await using large = await openSite(context, 1);
    await using small = await openSite(context, context.quick ? 2 : 10);
    for (let round = 0; round < plan.rounds; round++) {
      const sites = [
        [small, 'small'],
        [large, 'large'],
      ] as const;
      for (const [site, size] of round % 2 === 0 ? sites : sites.toReversed()) {
        context.progress(
          `round ${round + 1} of ${plan.rounds}, ${site.parts.hostIds.length} hosts`,
        );
        await measure(site, plan, (name, values) =>
          context.record(`${name}-${size}`, round, values),
        );
      }
    }
  },
};

function openSite({ quick, progress }: BenchmarkContext, divisor: number): Promise<Site> {
  const { hosts, sandboxesPerHost } = quick ? QUICK_LARGE : LARGE;
  const heartbeatMs = quick ? QUICK_HEARTBEAT_MS : HEARTBEAT_MS;
  const size: SiteSize = { hosts: hosts / divisor, sandboxesPerHost, heartbeatMs };
  progress(`joining ${size.hosts} hosts`);
  return Site.open(size, (parts) => seedSandboxes(parts, size));
}

async function measure(site: Site, plan: Plan, record: Recorder): Promise<void> {
  await site.parts.agents.ask('drift');
  await using controlPlane = await measureReconcile(site, record);
  await site.untilCount("hosts where state = 'online'", site.parts.hostIds.length);
  await measureIdle(site, controlPlane, plan, record);
  await measureCreates(site, controlPlane, plan, record);
  await measureReads(controlPlane, plan, record);
  const { rssMiB } = await controlPlane.use();
  record('memory', rssMiB);
}

/** Starts a control plane that has missed a change on every host. */
async function measureReconcile(site: Site, record: Recorder): Promise<RunningControlPlane> {
  const { database, hostIds, agents } = site.parts;
  let started: RunningControlPlane | undefined;
  let milliseconds = 0;
  const load = await database.loadDuring(async () => {
    milliseconds = await timed(async () => {
      started = await site.start();
      await site.untilCount("sandboxes where state = 'error'", hostIds.length);
    });
  });
  if (started === undefined) throw new Error('The control plane was not started.');
  const { cpuMs, longestBlockMs } = await started.use();
  record('reconcile', milliseconds);
  record('reconcile-statements', load.statements);
  record('reconcile-database', load.milliseconds);
  record('reconcile-processor', cpuMs);
  record('reconcile-block', longestBlockMs);
  const changes = await timed(async () => {
    await agents.ask('restore');
    await site.untilCount("sandboxes where state = 'error'", 0);
  });
  record('changes', changes);
  return started;
}

async function measureIdle(
  { parts: { database } }: Site,
  controlPlane: RunningControlPlane,
  { idleMs }: Plan,
  record: Recorder,
): Promise<void> {
  const before = await controlPlane.use();
  const load = await database.loadDuring(() => delay(idleMs));
  const after = await controlPlane.use();
  const seconds = idleMs / 1000;
  record('idle-writes', load.writes / seconds);
  record('idle-statements', load.statements / seconds);
  record('idle-database', load.milliseconds / seconds);
  record('idle-processor', (after.cpuMs - before.cpuMs) / seconds);
  record('idle-block', after.longestBlockMs);
}

async function measureCreates(
  { parts: { database, agents } }: Site,
  controlPlane: RunningControlPlane,
  { creates }: Plan,
  record: Recorder,
): Promise<void> {
  const created: string[] = [];
  const times: number[] = [];
  const create = async () => {
    times.push(
      await timed(async () => {
        const body = { memory_mb: 128 };
        created.push((await controlPlane.json<rest.Sandbox>('POST', '/v1/sandboxes', body)).id);
      }),
    );
  };
  for (let index = 0; index < creates / 8; index++) await create();
  record('create-alone', times.splice(0));
  await agents.ask('calls');
  let milliseconds = 0;
  const load = await database.loadDuring(async () => {
    milliseconds = await timed(() => concurrently(creates, create));
  });
  const calls = await agents.ask<Record<string, number>>('calls');
  record('create-rate', (1000 * creates) / milliseconds);
  record('create', times);
  record('create-statements', load.statements / creates);
  record('create-blocks', load.blocks / creates);
  record('create-database', load.milliseconds / creates);
  record('create-writes', load.writes / creates);
  record('create-calls', Object.values(calls).reduce((sum, count) => sum + count, 0) / creates);
  const destroys: number[] = [];
  const ids = [...created];
  await concurrently(ids.length, async () => {
    const id = ids.pop() ?? '';
    destroys.push(await timed(() => controlPlane.request('DELETE', `/v1/sandboxes/${id}`)));
  });
  record('destroy', destroys);
}

async function measureReads(
  controlPlane: RunningControlPlane,
  { reads }: Plan,
  record: Recorder,
): Promise<void> {
  const list = '/v1/sandboxes?limit=100';
  const { sandboxes } = await controlPlane.json<rest.SandboxList>('GET', list);
  const times = async (path: string) => {
    const taken: number[] = [];
    for (let index = 0; index < reads; index++) {
      taken.push(await timed(() => controlPlane.request('GET', path)));
    }
    return taken;
  };
  record('get', await times(`/v1/sandboxes/${sandboxes[0]?.id}`));
  record('list', await times(list));
  record('hosts', await times('/v1/hosts'));
}

/** Runs the action this often, {@link CONCURRENCY} at a time. */
async function concurrently(count: number, action: () => Promise<unknown>): Promise<void> {
  let left = count;
  const run = async () => {
    while (left-- > 0) await action();
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, run));
}
