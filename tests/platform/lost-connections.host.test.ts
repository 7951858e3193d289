/** The SDK sends a create again whose connection is lost; nothing is created twice. */
import { randomUUID } from 'node:crypto';
import { Torpor } from '@torpor/sdk';
import { type Harness, startHarness } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Cut, CuttingProxy } from '../support/cutting-proxy.ts';

const resources = new AsyncDisposableStack();
let harness: Harness;
let proxy: CuttingProxy;
let torpor: Torpor;
/** Not through the proxy. */
let direct: Torpor;

beforeAll(async () => {
  harness = resources.use(await startHarness());
  const { url, apiKey } = harness.controlPlane;
  proxy = resources.use(await CuttingProxy.open(url));
  torpor = resources.use(new Torpor({ apiUrl: proxy.url, apiKey }));
  direct = resources.use(new Torpor({ apiUrl: url, apiKey }));
});
afterAll(() => resources.disposeAsync());
beforeEach(async () => {
  await harness.clear();
  proxy.cuts = 0;
});

const CUTS: readonly Cut[] = [
  'before the request is forwarded',
  'before the response arrives',
  'within the response',
  'before the response arrives, and no connection is accepted for a while',
];
const WEBHOOK = { url: 'https://example.com', eventTypes: ['sandbox.*'] };

const sandboxIds = async () => (await Array.fromAsync(direct.sandboxes.list())).map(({ id }) => id);

/** Creates through the proxy, and returns the ids of the result; and the ids of all that exist. */
const CREATES: Readonly<Record<string, { create(): Promise<string[]>; all(): Promise<string[]> }>> =
  {
    sandbox: {
      create: async () => [(await torpor.sandboxes.create()).id],
      all: sandboxIds,
    },
    fork: {
      create: async () => {
        const source = await direct.sandboxes.create();
        const { sandboxes } = await (await torpor.sandboxes.get(source.id)).fork(2);
        return [source.id, ...sandboxes.map(({ id }) => id)];
      },
      all: sandboxIds,
    },
    snapshot: {
      create: async () => {
        const source = await direct.sandboxes.create();
        return [(await torpor.snapshots.create(source.id)).name];
      },
      all: async () => (await direct.snapshots.list({ type: 'snapshot' })).map(({ name }) => name),
    },
    'API key': {
      create: async () => {
        const { id, key } = await torpor.apiKeys.create('lost');
        await using holder = new Torpor({ apiUrl: harness.controlPlane.url, apiKey: key });
        await Array.fromAsync(holder.sandboxes.list());
        return [id];
      },
      all: async () => (await direct.apiKeys.list()).map(({ id }) => id),
    },
    webhook: {
      create: async () => [(await torpor.webhooks.create({ name: randomUUID(), ...WEBHOOK })).id],
      all: async () => (await direct.webhooks.list()).map(({ id }) => id),
    },
  };

describe.each(Object.entries(CREATES))('%s', (_, { create, all }) => {
  test.each(CUTS)('cut %s', async (cut) => {
    const before = await all();
    proxy.arm(cut);
    const made = await create();
    expect(proxy.cuts).toBe(1);
    expect((await all()).toSorted()).toEqual([...before, ...made].toSorted());
  });
});

test('with a key of its own, a program that starts again gets the first sandbox', async () => {
  const idempotencyKey = randomUUID();
  const first = await torpor.sandboxes.create({ idempotencyKey });
  expect((await direct.sandboxes.create({ idempotencyKey })).id).toBe(first.id);
  await expect(direct.sandboxes.create({ idempotencyKey, memoryMiB: 256 })).rejects.toMatchObject({
    code: 'idempotency_key_reused',
  });
});

test('what creates nothing is not sent again', async () => {
  const sandbox = await torpor.sandboxes.create();
  proxy.arm('before the response arrives');
  await expect(sandbox.exec('true')).rejects.toMatchObject({ code: 'host_unavailable' });
  expect(proxy.cuts).toBe(1);
});

test('a server that is not running is reported at once', async () => {
  const closed = await CuttingProxy.open(harness.controlPlane.url);
  await closed[Symbol.asyncDispose]();
  await using nowhere = new Torpor({ apiUrl: closed.url });
  const calls = harness.agent.count('createSandbox');
  await expect(nowhere.sandboxes.create()).rejects.toMatchObject({
    code: 'host_unavailable',
    message: expect.stringContaining('ECONNREFUSED'),
  });
  expect(harness.agent.count('createSandbox')).toBe(calls);
});

test('an abort ends the attempts with its reason', async () => {
  const reason = new Error('enough');
  const controller = new AbortController();
  proxy.arm('before the response arrives, and no connection is accepted for a while');
  const creating = torpor.sandboxes.create({ signal: controller.signal });
  await expect.poll(() => proxy.cuts).toBe(1);
  controller.abort(reason);
  await expect(creating).rejects.toBe(reason);
});
