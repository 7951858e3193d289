import { rest } from '@torpor/protocol';
import { type Harness, startHarness, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

let harness: Harness;
/** Of sandboxes that were created and destroyed, in that order. */
const ids: string[] = [];
const COUNT = 5;

beforeAll(async () => {
  harness = await startHarness();
  for (let index = 0; index < COUNT; index++) {
    const { id } = await harness.create();
    ids.push(id);
    await harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' });
  }
  await until(async () => (await read('limit=200')).items.length === 2 * COUNT);
});
afterAll(() => harness[Symbol.asyncDispose]());

async function read(query: string): Promise<rest.AuditPage> {
  const response = await harness.request(`/v1/audit-logs?${query}`);
  return rest.auditPageSchema.parse(await response.json());
}

test('pages of any size have every entry once, newest first', async () => {
  const { items: all } = await read('limit=200');
  expect(all.map(({ resource_id, action }) => [resource_id, action])).toEqual(
    ids
      .flatMap((id) => [
        [id, 'create'],
        [id, 'destroy'],
      ])
      .reverse(),
  );
  for (const limit of [1, 3, 2 * COUNT, 2 * COUNT + 1]) {
    const paged: rest.AuditEntry[] = [];
    let position = '';
    for (let page = 0; page <= 2 * COUNT; page++) {
      const { items, next_before, next_before_id } = await read(`limit=${limit}${position}`);
      paged.push(...items);
      if (next_before === undefined || next_before_id === undefined) break;
      position = `&before=${encodeURIComponent(next_before)}&before_id=${next_before_id}`;
    }
    expect(paged, `pages of ${limit}`).toEqual(all);
  }
});

test('filters let through what they say', async () => {
  const [first = ''] = ids;
  const count = async (query: string) => (await read(`limit=200&${query}`)).items.length;
  expect(await count(`resource_id=${first}`)).toBe(2);
  expect(await count('action=destroy')).toBe(COUNT);
  expect(await count(`action=destroy&resource_id=${first}`)).toBe(1);
  expect(await count('resource_type=snapshot')).toBe(0);
  expect(await count('actor_type=api_key')).toBe(2 * COUNT);
  expect(await count('actor_type=system')).toBe(0);
  expect(await count('status=error')).toBe(0);
  const { items } = await read('limit=200');
  const since = items[3]?.created_at ?? '';
  const expected = items.filter(({ created_at }) => created_at >= since).length;
  expect(await count(`since=${encodeURIComponent(since)}`)).toBe(expected);
});

test.each(['limit=0', 'limit=201', 'before=yesterday', 'before_id=log1', 'status=maybe', 'x=1'])(
  'the query %s is refused',
  async (query) => {
    const response = await harness.request(`/v1/audit-logs?${query}`);
    expect(response.status).toBe(400);
    const { error } = rest.errorBodySchema.parse(await response.json());
    expect(error.code).toBe('invalid_request');
  },
);
