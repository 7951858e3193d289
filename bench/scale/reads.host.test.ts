import { ControlPlane } from '@torpor/control-plane';
import type { rest } from '@torpor/protocol';
import { MemoryAgent, until } from '@torpor/testkit/control-plane';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LINEAR, NAMES, PAGE_LIMIT, pathsOf } from './requests.ts';
import { seedHistory, seedSandboxes } from './seed.ts';
import { StatisticsDatabase } from './statistics-database.ts';

/* What a request reads does not grow with the rows that it leaves out. Counts, no times. */

const REQUESTS = 10;
/** An entry of a page is in a block of its own at most, and so is its place in an index. */
const MOST_BLOCKS = 4 * PAGE_LIMIT;
const EVENTS = 20_000;
const ANOTHER_HOST = 'another';

const stack = new AsyncDisposableStack();
let database: StatisticsDatabase;
let paths: Awaited<ReturnType<typeof pathsOf>>;
let controlPlane: ControlPlane;

async function read(path: string): Promise<string> {
  const headers = { 'x-api-key': controlPlane.apiKey };
  const response = await fetch(`${controlPlane.url}${path}`, { headers });
  const text = await response.text();
  expect(response.status, `${path}: ${text}`).toBe(200);
  return text;
}

beforeAll(async () => {
  database = stack.use(await StatisticsDatabase.start());
  const agent = stack.use(await MemoryAgent.start());
  controlPlane = stack.use(
    await ControlPlane.start({
      dataDir: database.dataDir,
      databaseUrl: database.url,
      host: '127.0.0.1',
      port: 0,
      hostTransport: agent.transport,
      logger: pino({ level: 'silent' }),
      version: '0.0.0-test',
    }),
  );
  const { team_id: teamId } = JSON.parse(await read('/v1/quotas')) as rest.QuotaList;
  // Of a host that this control plane does not watch: nobody changes the rows.
  const parts = { database, teamId, hostIds: [ANOTHER_HOST] };
  await seedSandboxes(parts, { sandboxesPerHost: 6_000 });
  await seedHistory(parts, { stoppedSandboxes: 8_000, events: EVENTS, usageIntervals: 100 });
  paths = await pathsOf(database, read);
});
afterAll(() => stack.disposeAsync());

describe('a page reads few blocks more than it has entries', () => {
  const pages = NAMES.filter((name) => !LINEAR.has(name)).filter((name) => name !== 'create');
  // The events are 100, and not a page.
  test.each(pages.filter((name) => name !== 'events'))('%s', async (name) => {
    const { blocks } = await database.loadDuring(async () => {
      for (let index = 0; index < REQUESTS; index++) await read(paths[name]);
    });
    const found = (await database.costliest(3)).join('\n');
    expect(blocks / REQUESTS, found).toBeLessThan(MOST_BLOCKS);
  });
});

test('what many events change of usage is written by as many statements as what one does', async () => {
  const undelivered = () => database.count('outbox where delivered_at is null');
  await until(async () => (await undelivered()) === 0);
  await database.loadDuring(async () => {
    await database.client.query(
      `insert into outbox (kind, resource, team_id, actor_type, status, metadata)
       select 'sandbox.state', id, team_id, 'system', 'success', '{"state": "stopped"}'
       from sandboxes where host_id = '${ANOTHER_HOST}' and state = 'running' limit 60`,
    );
    await until(async () => (await undelivered()) === 0);
  });
  expect(await database.count("usage_intervals where ended_at > now() - interval '1 hour'")).toBe(
    60,
  );
  expect(await database.calls('%usage_intervals%')).toBe(2);
});

test('what waits behind a failed delivery of a webhook is not due before it is tried again', async () => {
  // Nothing can be sent to its address: it is not encrypted.
  await database.client.query(
    `insert into webhooks (id, team_id, name, format, url, secret, event_types)
     select 'down', id, 'down', 'json', 'x', 'x', '{}' from teams limit 1`,
  );
  await database.client.query(
    `insert into webhook_deliveries (webhook_id, event_id, resource, event)
     select 'down', n, 'sandbox', '{}' from generate_series(1, 100) n`,
  );
  const due = "webhook_deliveries where webhook_id = 'down' and next_attempt_at <= now()";
  await until(async () => (await database.count(due)) === 0);
  expect(
    await database.count("webhook_deliveries where webhook_id = 'down' and attempts > 0"),
  ).toBe(1);
});
