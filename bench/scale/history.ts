import type { rest } from '@torpor/protocol';
import type { Benchmark, BenchmarkContext, SeriesSpec } from '../harness/benchmark.ts';
import { type Contender, interleave, timed } from '../harness/interleave.ts';
import {
  LINEAR,
  NAMES,
  PAGE_LIMIT,
  pathsOf,
  REQUEST_TITLES,
  type RequestName,
} from './requests.ts';
import { seedHistory, seedSandboxes } from './seed.ts';
import { type RunningControlPlane, Site } from './site.ts';

const LARGE = { sandboxes: 1_000, stopped: 10_000, events: 100_000, intervals: 20_000 };
const QUICK_LARGE = { sandboxes: 200, stopped: 500, events: 1_000, intervals: 500 };
/** Requests of one round, one after the other. */
const REQUESTS = 10;
/** The number of blocks hardly varies. */
const BLOCK_ROUNDS = 2;

const FLAT = 1.5;

export const history: Benchmark = {
  name: 'history',
  title: 'The API, with ten times the rows',
  method:
    `Two control planes, each with its own embedded PostgreSQL and one host that has joined over TLS, whose agent has no virtual machines. One has ${LARGE.sandboxes} running sandboxes, ` +
    `rows of ${LARGE.stopped} destroyed ones, ${LARGE.events} events and audit entries and ${LARGE.intervals} usage intervals; the other has a tenth of ` +
    `each. All of it is of one team, with quotas. Each request is sent ${REQUESTS} times over HTTP, by turns to both; pages have ${PAGE_LIMIT} entries. What is ` +
    'rare is there ten times in both, so that a page without an index would read all rows.',
  series: Object.fromEntries(
    NAMES.flatMap((name): [string, SeriesSpec][] => [
      [`${name}-large`, { title: `${REQUEST_TITLES[name]}: all rows`, unit: 'ms' }],
      [`${name}-small`, { title: `${REQUEST_TITLES[name]}: a tenth`, unit: 'ms' }],
      [
        `${name}-blocks-large`,
        { title: `${REQUEST_TITLES[name]}, blocks: all rows`, unit: 'count' },
      ],
      [
        `${name}-blocks-small`,
        { title: `${REQUEST_TITLES[name]}, blocks: a tenth`, unit: 'count' },
      ],
    ]),
  ),
  comparisons: NAMES.flatMap((name) => {
    const aim = LINEAR.has(name) ? {} : { aim: { atMost: FLAT } };
    const title = REQUEST_TITLES[name];
    return [
      { title: `${title}: all rows ÷ a tenth`, of: `${name}-large`, to: `${name}-small`, ...aim },
      {
        title: `${title}: blocks of all rows ÷ of a tenth`,
        of: `${name}-blocks-large`,
        to: `${name}-blocks-small`,
        ...aim,
      },
    ];
  }),
  costs: () => [],
  async run(context) {
    await using large = await openSite(context, 1);
    await using small = await openSite(context, 10);
    await using first = await large.start();
    await using second = await small.start();
    const sites = [
      { site: large, size: 'large', requests: await requestsOf(large, first) },
      { site: small, size: 'small', requests: await requestsOf(small, second) },
    ];
    const contenders = sites.flatMap(({ size, requests }) =>
      NAMES.map((name) => [`${name}-${size}`, repeated(requests[name])] as const),
    );
    await interleave(context, context.quick ? 2 : 10, Object.fromEntries(contenders));
    for (let round = 0; round < BLOCK_ROUNDS; round++) {
      for (const { site, size, requests } of sites) {
        for (const name of NAMES) {
          const { blocks } = await site.parts.database.loadDuring(repeated(requests[name]));
          context.record(`${name}-blocks-${size}`, round, blocks / REQUESTS);
        }
      }
    }
  },
};

function openSite({ quick, progress }: BenchmarkContext, divisor: number): Promise<Site> {
  const rows = quick ? QUICK_LARGE : LARGE;
  progress(`preparing ${rows.sandboxes / divisor} sandboxes`);
  const size = { hosts: 1, sandboxesPerHost: rows.sandboxes / divisor, heartbeatMs: 10_000 };
  return Site.open(size, async (parts) => {
    await seedSandboxes(parts, size);
    await seedHistory(parts, {
      stoppedSandboxes: rows.stopped / divisor,
      events: rows.events / divisor,
      usageIntervals: rows.intervals / divisor,
    });
  });
}

type Requests = Record<RequestName, () => Promise<unknown>>;

async function requestsOf(site: Site, controlPlane: RunningControlPlane): Promise<Requests> {
  const read = (path: string) => controlPlane.request('GET', path);
  const paths = await pathsOf(site.parts.database, read);
  const reads = Object.entries(paths).map(([name, path]) => [name, () => read(path)]);
  return {
    ...(Object.fromEntries(reads) as Omit<Requests, 'create'>),
    async create() {
      const body = { memory_mb: 128 };
      const { id } = await controlPlane.json<rest.Sandbox>('POST', '/v1/sandboxes', body);
      await controlPlane.request('DELETE', `/v1/sandboxes/${id}`);
    },
  };
}

function repeated(action: () => Promise<unknown>): Contender {
  return async () => {
    const times: number[] = [];
    for (let index = 0; index < REQUESTS; index++) times.push(await timed(action));
    return times;
  };
}
