/** Lists page by page. */
import { Torpor } from '@torpor/sdk';
import { errorOf, Fleet, type Member, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const COUNT = 7;

let fleet: Fleet;
let member: Member;
let webhook: string;

beforeAll(async () => {
  fleet = await Fleet.open();
  fleet.agent.limits.memoryMb = 1_000_000;
  member = await fleet.join();
  const hook = { url: 'https://example.com', event_types: ['sandbox.create'] };
  const created = await member.call('POST', '/webhooks', { name: 'hook-0', ...hook });
  webhook = ((await created.json()) as { id: string }).id;
  await member.call('PATCH', `/webhooks/${webhook}`, { enabled: true });
  for (let n = 1; n < COUNT; n += 1) {
    await member.call('POST', '/webhooks', { name: `hook-${n}`, ...hook });
  }
  const { id } = await member.create();
  for (let n = 0; n < COUNT; n += 1) {
    await member.call('POST', '/api-keys', { name: `key-${n}` });
    await member.call('POST', '/snapshots', { sandbox_id: id, name: `snapshot-${n}` });
    await member.create();
  }
  const deliveries = `webhook_deliveries where webhook_id = '${webhook}'`;
  await until(async () => (await fleet.count(deliveries)) > COUNT);
  // Of one time, as rows of one transaction have.
  await fleet.database.query(`update templates set created_at = '2026-01-01'`);
  await fleet.database.query(`update api_keys set created_at = '2026-01-01' where name <> 'local'`);
});
afterAll(() => fleet[Symbol.asyncDispose]());

const LISTS: readonly (readonly [string, () => string, string])[] = [
  ['snapshots and images', () => '/snapshots', 'name'],
  ['snapshots', () => '/snapshots?type=snapshot', 'name'],
  ['images', () => '/snapshots?type=base', 'name'],
  ['templates', () => '/templates', 'name'],
  ['API keys', () => '/api-keys', 'id'],
  ['webhooks', () => '/webhooks', 'name'],
  ['deliveries', () => `/webhooks/${webhook}/deliveries`, 'id'],
];

async function page(path: string, query: Record<string, string>) {
  const separator = path.includes('?') ? '&' : '?';
  const response = await member.call('GET', `${path}${separator}${new URLSearchParams(query)}`);
  if (response.status !== 200) throw new Error(await response.text());
  const entries = (await response.json()) as Record<string, unknown>[];
  return { entries, next: response.headers.get('x-next-token') };
}

describe.each(LISTS)('%s', (_, path, name) => {
  test.each([1, 2, 3, COUNT, 1000])(
    'in pages of %i have every entry once, in order',
    async (limit) => {
      const whole = await page(path(), {});
      expect(whole.next).toBeNull();
      const found: unknown[] = [];
      let next: string | null = null;
      do {
        const token: Record<string, string> = next === null ? {} : { next_token: next };
        const { entries, next: following } = await page(path(), { limit: String(limit), ...token });
        found.push(...entries.map((entry) => entry[name]));
        next = following;
      } while (next !== null);
      expect(found).toEqual(whole.entries.map((entry) => entry[name]));
      expect(found.length).toBeGreaterThan(0);
    },
  );

  test.each(['limit=0', 'limit=1001', 'limit=x', 'next_token=xyz', 'unknown=1'])(
    '%s is refused',
    async (query) => {
      if (path().includes('type=base') && query.startsWith('next_token')) return;
      const separator = path().includes('?') ? '&' : '?';
      const response = await member.call('GET', `${path()}${separator}${query}`);
      expect(await errorOf(response)).toMatchObject({ status: 400, code: 'invalid_request' });
    },
  );
});

test('a token of another list is refused', async () => {
  const { next } = await page('/api-keys', { limit: '1' });
  const lists = ['/snapshots', '/webhooks', '/sandboxes', `/webhooks/${webhook}/deliveries`];
  for (const list of lists) {
    const response = await member.call('GET', `${list}?next_token=${next}`);
    expect(await errorOf(response), list).toMatchObject({ status: 400 });
  }
});

test('the SDK reads all pages', async () => {
  const { url: apiUrl, apiKey } = member.controlPlane;
  await fleet.database.query(
    `insert into api_keys (id, team_id, name, key_hash, key_prefix, scopes)
     select 'key' || lpad(n::text, 20, '0'), (select min(team_id) from api_keys), 'many', 'hash' || n, 'tpr_', '{}'
     from generate_series(1, 450) n`,
  );
  await using torpor = new Torpor({ apiUrl, apiKey });
  const keys = await torpor.apiKeys.list();
  expect(new Set(keys.map(({ id }) => id)).size).toBe(450 + COUNT + 1);
  expect(await torpor.webhooks.list()).toHaveLength(COUNT);
  expect((await torpor.snapshots.list({ type: 'snapshot' })).length).toBe(COUNT);
  expect(await torpor.webhooks.deliveries(webhook, { limit: 3 })).toHaveLength(3);
  expect(await torpor.webhooks.deliveries(webhook)).toHaveLength(COUNT + 1);
});
