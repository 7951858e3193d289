import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { text } from 'node:stream/consumers';
import { rest } from '@torpor/protocol';
import { verifyWebhook } from '@torpor/sdk';
import { errorOf, Fleet, type Member, until } from '@torpor/testkit/control-plane';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';

const OPTIONS = {
  webhookNetworks: ['127.0.0.0/8'],
  retention: { intervalMs: 20 },
  webhookTiming: { pollIntervalMs: 20, firstRetryMs: 30, longestRetryMs: 100, maxAttempts: 1000 },
};

let fleet: Fleet;
let member: Member;
beforeAll(async () => {
  fleet = await Fleet.open();
  member = await fleet.join(OPTIONS);
});
afterAll(() => fleet[Symbol.asyncDispose]());

const receivers: Receiver[] = [];
afterEach(async () => {
  for (const webhook of await list()) await member.call('DELETE', `/webhooks/${webhook.id}`);
  await Promise.all(receivers.splice(0).map((receiver) => receiver.close()));
});

interface Received {
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** An HTTP server that keeps what it accepts. */
class Receiver {
  readonly received: Received[] = [];
  /** Of the responses. */
  status = 200;
  location: string | undefined;
  retryAfter: string | undefined;
  requests = 0;
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async open(): Promise<Receiver> {
    const server = createServer(async (request, response) => {
      receiver.requests++;
      const body = await text(request);
      if (receiver.status === 200) receiver.received.push({ headers: request.headers, body });
      const { status, location, retryAfter } = receiver;
      if (location !== undefined) response.setHeader('location', location);
      if (retryAfter !== undefined) response.setHeader('retry-after', retryAfter);
      response.writeHead(status).end();
    });
    const receiver = new Receiver(server);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    receivers.push(receiver);
    return receiver;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/hook`;
  }

  events(): rest.Event[] {
    return this.received.map(({ body }) => rest.eventSchema.parse(JSON.parse(body)));
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

async function list(): Promise<rest.Webhook[]> {
  return rest.webhookListSchema.parse(await (await member.call('GET', '/webhooks')).json());
}

async function create(body: object): Promise<rest.CreatedWebhook> {
  const response = await member.call('POST', '/webhooks', { name: 'hook', ...body });
  const json = await response.json();
  expect(response.status, JSON.stringify(json)).toBe(201);
  return rest.createdWebhookSchema.parse(json);
}

async function deliveries(id: string, query = ''): Promise<rest.WebhookDelivery[]> {
  const response = await member.call('GET', `/webhooks/${id}/deliveries${query}`);
  return rest.webhookDeliveryListSchema.parse(await response.json());
}

test('an event is sent with a signature of the Standard Webhooks specification', async () => {
  const receiver = await Receiver.open();
  const { secret, id, host } = await create({ url: receiver.url, event_types: ['sandbox.create'] });
  expect(host).toBe(new URL(receiver.url).host);
  const sandbox = await member.create();
  await until(() => receiver.received.length === 1);
  const [{ headers, body } = { headers: {}, body: '' }] = receiver.received;
  const signed = `${headers['webhook-id']}.${headers['webhook-timestamp']}.${body}`;
  const key = Buffer.from(secret.replace('whsec_', ''), 'base64');
  const expected = createHmac('sha256', key).update(signed).digest('base64');
  expect(headers['webhook-signature']).toBe(`v1,${expected}`);
  expect(Math.abs(Date.now() / 1000 - Number(headers['webhook-timestamp']))).toBeLessThan(60);
  expect(verifyWebhook({ headers, body }, secret)).toEqual(receiver.events()[0]);
  expect(receiver.events()).toMatchObject([
    { id: headers['webhook-id'], type: 'sandbox.create', resource: { id: sandbox.id } },
  ]);
  await until(async () => (await deliveries(id, '?state=delivered')).length === 1);
  expect(await deliveries(id, '?state=pending')).toEqual([]);
  const listed = JSON.stringify(await list());
  expect(listed).not.toContain(secret);
  expect(listed).not.toContain('/hook');
  expect(fleet.log()).not.toContain(secret);
  await member.call('DELETE', `/sandboxes/${sandbox.id}`);
});

test('a receiver that was down gets every event, in the order of each sandbox, also if a control plane dies', async () => {
  const receiver = await Receiver.open();
  receiver.status = 503;
  await create({ url: receiver.url, event_types: ['sandbox.*'] });
  const victim = await fleet.joinSeverable({ ...OPTIONS, leaseMs: 500 });
  const ids: string[] = [];
  for (let index = 0; index < 4; index++) {
    const { id } = await member.create();
    ids.push(id);
    await member.call('POST', `/sandboxes/${id}/pause`);
    await member.call('POST', `/sandboxes/${id}/resume`);
    await member.call('DELETE', `/sandboxes/${id}`);
  }
  await until(() => receiver.requests > 10);
  victim.links.sever();
  receiver.status = 200;
  await victim[Symbol.asyncDispose]();
  const actions = ['create', 'pause', 'resume', 'destroy'].map((action) => `sandbox.${action}`);
  const seen = (id: string) => {
    const own = receiver
      .events()
      .filter(({ type, resource }) => type !== 'sandbox.state' && resource.id === id);
    return [...new Map(own.map((event) => [event.id, event.type])).values()];
  };
  await until(async () => {
    // What the dead one had claimed is sent when its claim has expired; its last claim may have been made just now.
    await fleet.database.query('update webhook_deliveries set next_attempt_at = now()');
    return ids.every((id) => seen(id).length === actions.length);
  });
  for (const id of ids) expect(seen(id)).toEqual(actions);
});

test('what is given up is listed with the reason, does not block what follows, and can be queued again', async () => {
  const receiver = await Receiver.open();
  receiver.status = 500;
  const { id } = await create({
    url: receiver.url,
    event_types: ['sandbox.create', 'sandbox.destroy'],
  });
  const sandbox = await member.create();
  await until(async () => (await deliveries(id)).some(({ attempts }) => attempts > 1));
  await fleet.database.query('update webhook_deliveries set attempts = 999 where webhook_id = $1', [
    id,
  ]);
  await until(async () => (await deliveries(id, '?state=dead')).length === 1);
  expect(await deliveries(id, '?state=dead')).toMatchObject([
    {
      event_type: 'sandbox.create',
      resource_id: sandbox.id,
      last_status: 500,
      last_error: expect.stringContaining('500'),
    },
  ]);
  receiver.status = 200;
  await member.call('DELETE', `/sandboxes/${sandbox.id}`);
  await until(() => receiver.received.length === 1);
  expect(receiver.events()).toMatchObject([{ type: 'sandbox.destroy' }]);
  const queued = await member.call('POST', `/webhooks/${id}/redeliver`);
  expect(await queued.json()).toEqual({ queued: 1 });
  await until(() => receiver.received.length === 2);
  expect(receiver.events()[1]).toMatchObject({ type: 'sandbox.create' });
});

test('a receiver that does not respond keeps no other waiting', async () => {
  const silent = createTcpServer(() => undefined).listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const { port } = silent.address() as AddressInfo;
  const receiver = await Receiver.open();
  await create({ name: 'silent', url: `http://127.0.0.1:${port}/`, event_types: ['sandbox.*'] });
  await create({ url: receiver.url, event_types: ['sandbox.destroy'] });
  try {
    const ids: string[] = [];
    for (let index = 0; index < 25; index++) {
      const { id } = await member.create();
      ids.push(id);
      await member.call('DELETE', `/sandboxes/${id}`);
    }
    // Within less than the time after which a request to the silent one is given up.
    await until(() => receiver.received.length === ids.length, 8_000);
  } finally {
    silent.close();
  }
});

test('old deliveries are removed, also while others are being sent', async () => {
  const silent = createTcpServer(() => undefined).listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const { port } = silent.address() as AddressInfo;
  const receiver = await Receiver.open();
  try {
    const { id } = await create({ url: receiver.url, event_types: ['sandbox.create'] });
    const sandbox = await member.create();
    await until(async () => (await deliveries(id, '?state=delivered')).length === 1);
    await member.call('PATCH', `/webhooks/${id}`, {
      url: `http://127.0.0.1:${port}/`,
      event_types: ['sandbox.destroy'],
    });
    await member.call('DELETE', `/sandboxes/${sandbox.id}`);
    await until(async () => (await deliveries(id, '?state=pending'))[0]?.attempts === 1);
    await fleet.database.query(
      `update webhook_deliveries set finished_at = now() - interval '8 d' where state = 'delivered'`,
    );
    await until(async () => (await deliveries(id, '?state=delivered')).length === 0, 8_000);
  } finally {
    silent.close();
  }
});

test('a new secret signs at once, and the previous one as well for a while', async () => {
  const receiver = await Receiver.open();
  const { id, secret } = await create({ url: receiver.url, event_types: ['sandbox.create'] });
  const response = await member.call('POST', `/webhooks/${id}/rotate-secret`);
  expect(response.headers.get('cache-control')).toBe('no-store');
  const { secret: next } = rest.createdWebhookSchema.parse(await response.json());
  expect(next).not.toBe(secret);
  await member.call('POST', `/webhooks/${id}/test`);
  const [both = { headers: {}, body: '' }] = receiver.received;
  for (const key of [next, secret]) {
    expect(verifyWebhook(both, key)).toMatchObject({ type: 'webhook.test' });
  }
  await fleet.database.query('update webhooks set previous_secret_until = now() where id = $1', [
    id,
  ]);
  await member.call('POST', `/webhooks/${id}/test`);
  const [, later = { headers: {}, body: '' }] = receiver.received;
  expect(verifyWebhook(later, next)).toMatchObject({ type: 'webhook.test' });
  expect(() => verifyWebhook(later, secret)).toThrow('not signed');
  expect(JSON.stringify(await list())).not.toContain('secret');
});

test('what is done with a webhook is in the audit log', async () => {
  const receiver = await Receiver.open();
  const { id } = await create({ url: receiver.url, event_types: ['sandbox.create'] });
  await member.call('PATCH', `/webhooks/${id}`, { url: receiver.url, event_types: ['host.*'] });
  await member.call('POST', `/webhooks/${id}/redeliver`);
  await member.call('DELETE', `/webhooks/${id}`);
  const entries = async () => {
    const response = await member.call('GET', `/audit-logs?resource_id=${id}`);
    const { items } = rest.auditPageSchema.parse(await response.json());
    return items.map(({ action, metadata }) => [action, metadata]).toReversed();
  };
  await until(async () => (await entries()).length === 4);
  expect(await entries()).toEqual([
    ['create', { name: 'hook' }],
    ['update', { name: 'hook', changed: 'event_types url' }],
    ['redeliver', { name: 'hook', deliveries: '0' }],
    ['delete', { name: 'hook' }],
  ]);
});

test('a webhook sends only what its maker may read, also after it was changed', async () => {
  const created = await member.call('POST', '/api-keys', { name: 'k', scopes: ['webhooks.write'] });
  const { key, id: keyId } = rest.createdApiKeySchema.parse(await created.json());
  const limited = (method: string, path: string, body: object) =>
    fetch(`${member.controlPlane.url}/v1${path}`, {
      method,
      headers: { 'x-api-key': key },
      body: JSON.stringify(body),
    });
  const url = 'https://example.com/';
  const hook = { name: 'limited', url, event_types: ['sandbox.*', 'snapshot.create'] };
  const { id } = rest.createdWebhookSchema.parse(
    await (await limited('POST', '/webhooks', hook)).json(),
  );
  const { id: adminId } = await create({ url, event_types: ['api_key.*', 'sandbox.*'] });
  const refused = [
    await limited('POST', '/webhooks', { ...hook, name: 'more', event_types: ['user.login'] }),
    await limited('PATCH', `/webhooks/${id}`, { event_types: ['sandbox.*', 'api_key.*'] }),
    await limited('PATCH', `/webhooks/${adminId}`, { url: 'https://attacker.example/' }),
  ];
  for (const response of refused) {
    expect(await errorOf(response)).toMatchObject({ status: 403, code: 'forbidden' });
  }
  expect((await list()).map(({ host, event_types }) => [host, event_types])).toEqual([
    ['example.com', ['api_key.*', 'sandbox.*']],
    ['example.com', ['sandbox.*', 'snapshot.create']],
  ]);
  await member.call('DELETE', `/api-keys/${keyId}`);
});

test.each([
  'sandbox.created',
  'sandboxes.*',
  'sandbox',
  '*',
  'sandbox.*.*',
  'constructor',
  'SANDBOX.*',
])('there are no events %s', async (type) => {
  const body = { name: 'never', url: 'https://example.com/', event_types: ['sandbox.*', type] };
  const error = await errorOf(await member.call('POST', '/webhooks', body));
  expect(error).toMatchObject({ status: 400, issues: [{ field: 'event_types.1' }] });
  const followed = await errorOf(await member.call('GET', `/events?follow=false&type=${type}`));
  expect(followed).toMatchObject({ status: 400, issues: [{ field: 'type' }] });
});

test('a redirect is not followed', async () => {
  const [receiver, other] = [await Receiver.open(), await Receiver.open()];
  receiver.status = 307;
  receiver.location = other.url;
  const { id } = await create({ url: receiver.url, event_types: ['sandbox.*'] });
  const attempt = await member.call('POST', `/webhooks/${id}/test`);
  expect(await attempt.json()).toMatchObject({ accepted: false, status: 307 });
  expect(other.requests).toBe(0);
});

test('a name that resolves to a private address is not called', async () => {
  const receiver = await Receiver.open();
  const strict = await fleet.join({ ...OPTIONS, webhookNetworks: [] });
  const { port } = new URL(receiver.url);
  const refused = await strict.call('POST', '/webhooks', {
    name: 'literal',
    url: receiver.url,
    event_types: ['sandbox.*'],
  });
  expect(refused.status).toBe(400);
  const { id } = await create({ url: `http://localhost:${port}/`, event_types: ['snapshot.*'] });
  const attempt = await strict.call('POST', `/webhooks/${id}/test`);
  expect(await attempt.json()).toMatchObject({
    accepted: false,
    error: expect.stringContaining('not an address of the public internet'),
  });
  expect(receiver.requests).toBe(0);
});

test.each<[string, (id: string) => object]>([
  [
    'slack',
    (id) => ({
      text: `webhook ${id}: test (success), by &lt;!channel&gt; @everyone &amp; *x*`,
      mrkdwn: false,
    }),
  ],
  [
    'discord',
    (id) => ({
      content: `webhook ${id}\\: test \\(success\\), by \\<!channel\\> \\@everyone & \\*x\\*`,
      allowed_mentions: { parse: [] },
    }),
  ],
])(
  'the format %s is a sentence for people, in which no name mentions anyone',
  async (format, body) => {
    const receiver = await Receiver.open();
    const { id } = await create({ url: receiver.url, format, event_types: ['sandbox.*'] });
    const created = await member.call('POST', '/api-keys', {
      name: '<!channel> @everyone & *x*',
      scopes: ['webhooks.write'],
    });
    const { key, id: keyId } = rest.createdApiKeySchema.parse(await created.json());
    const tested = await fetch(`${member.controlPlane.url}/v1/webhooks/${id}/test`, {
      method: 'POST',
      headers: { 'x-api-key': key },
    });
    expect(await tested.json()).toEqual({ accepted: true, status: 200 });
    expect(JSON.parse(receiver.received[0]?.body ?? '')).toEqual(body(id));
    await member.call('DELETE', `/api-keys/${keyId}`);
  },
);

test('a receiver that asks for time gets it', async () => {
  const receiver = await Receiver.open();
  receiver.status = 429;
  receiver.retryAfter = '3600';
  const patient = { ...OPTIONS.webhookTiming, longestRetryMs: 3 * 3_600_000 };
  const own = await Fleet.open();
  try {
    const { call, create: createSandbox } = await own.join({ ...OPTIONS, webhookTiming: patient });
    const hook = { name: 'hook', url: receiver.url, event_types: ['sandbox.create'] };
    const { id } = rest.createdWebhookSchema.parse(
      await (await call('POST', '/webhooks', hook)).json(),
    );
    const begun = Date.now();
    await createSandbox();
    await until(() => receiver.requests === 1);
    const next = async () => {
      const response = await call('GET', `/webhooks/${id}/deliveries`);
      const [{ last_status, next_attempt_at = '' } = {}] = rest.webhookDeliveryListSchema.parse(
        await response.json(),
      );
      return last_status === 429 ? Date.parse(next_attempt_at) - begun : 0;
    };
    await until(async () => (await next()) > 0);
    expect(await next()).toBeGreaterThan(3_600_000 * 0.9);
  } finally {
    await own[Symbol.asyncDispose]();
  }
});

test('a webhook can be changed and disabled, and its name is its own', async () => {
  const receiver = await Receiver.open();
  const { id } = await create({ url: receiver.url, event_types: ['sandbox.create'] });
  const { id: otherId } = await create({
    name: 'other',
    url: receiver.url,
    event_types: ['snapshot.*'],
  });
  expect(
    (
      await member.call('POST', '/webhooks', {
        name: 'hook',
        url: receiver.url,
        event_types: ['sandbox.*'],
      })
    ).status,
  ).toBe(409);
  expect((await member.call('PATCH', `/webhooks/${otherId}`, { name: 'hook' })).status).toBe(409);
  const changed = await member.call('PATCH', `/webhooks/${id}`, { enabled: false });
  expect(await changed.json()).toMatchObject({ enabled: false, event_types: ['sandbox.create'] });
  const sandbox = await member.create();
  await member.call('PATCH', `/webhooks/${id}`, {
    enabled: true,
    event_types: ['sandbox.destroy'],
  });
  await member.call('DELETE', `/sandboxes/${sandbox.id}`);
  await until(() => receiver.received.length === 1);
  expect(receiver.events()).toMatchObject([{ type: 'sandbox.destroy' }]);
  expect((await member.call('PATCH', '/webhooks/whnone', { enabled: true })).status).toBe(404);
  expect((await member.call('DELETE', '/webhooks/whnone')).status).toBe(404);
});
