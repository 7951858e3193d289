import type { Transport } from '@connectrpc/connect';
import { ERRORS, type ErrorCode } from '@torpor/protocol';
import { Torpor, TorporError } from '@torpor/sdk';
import {
  type Harness,
  openTestSite,
  startHarness,
  type TestSite,
} from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';
import WebSocket from 'ws';

const resources = new AsyncDisposableStack();
const called: { readonly method: string; readonly id: string | null }[] = [];
let harness: Harness;
let site: TestSite;

beforeAll(async () => {
  site = resources.use(await openTestSite());
  harness = resources.use(await startHarness({ hostTransport: recording(site.agent.transport) }));
});
afterAll(() => resources.disposeAsync());

function recording({ unary, stream }: Transport): Transport {
  return {
    unary: (method, signal, timeoutMs, header, ...rest) => {
      called.push({ method: method.localName, id: new Headers(header).get('x-request-id') });
      return unary(method, signal, timeoutMs, header, ...rest);
    },
    stream,
  };
}

const logged = (id: string) =>
  harness
    .log()
    .split('\n')
    .filter((line) => line.includes('"request_id"'))
    .map((line) => JSON.parse(line) as { msg: string; request_id: string })
    .filter((line) => line.request_id === id)
    .map(({ msg }) => msg);

const sent = (id: string) => ({ headers: { 'x-request-id': id } });

test('the id of a request is in its response, its lines of the log and its calls of the agent', async () => {
  const id = 'trace-7f:{"x"}';
  const response = await harness.request('/v1/sandboxes', {
    method: 'POST',
    body: '{}',
    ...sent(id),
  });
  expect(response.status).toBe(201);
  expect(response.headers.get('x-request-id')).toBe(id);
  expect(logged(id)).toEqual(['Sandbox created', 'Request handled']);
  const calls = called.filter((call) => call.id === id).map(({ method }) => method);
  expect(calls).toEqual(['createSandbox']);
});

test.each([
  ['no id', undefined],
  ['an empty one', ''],
  ['one with a space', 'a b'],
  ['one of 129 characters', 'x'.repeat(129)],
  ['one that is not ASCII', 'caf\u00e9'],
])('%s: the request gets a new one', async (_, id) => {
  const response = await harness.request('/health', id === undefined ? {} : sent(id));
  expect(response.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  await response.body?.cancel();
});

test.each([
  ['/v1/sandboxes/nope', 404],
  ['/v1/sandboxes?limit=no', 400],
  ['/nothing', 404],
  ['/v1/events', 200],
  ['/docs/errors', 200],
])('GET %s has the id of the request too', async (path, status) => {
  const leave = new AbortController();
  const response = await harness.request(path, { ...sent('abc'), signal: leave.signal });
  expect([response.status, response.headers.get('x-request-id')]).toEqual([status, 'abc']);
  leave.abort();
});

test('a WebSocket has one, and so has the refusal of one', async () => {
  const url = harness.controlPlane.url.replace('http', 'ws');
  const { id } = await harness.create();
  const headers = { 'x-api-key': harness.controlPlane.apiKey, 'x-request-id': 'socket' };
  const open = new WebSocket(`${url}/v1/sandboxes/${id}/exec/stream`, { headers });
  const upgraded = await new Promise((resolve) =>
    open.on('upgrade', (response) => resolve(response.headers['x-request-id'])),
  );
  expect(upgraded).toBe('socket');
  open.on('error', () => undefined).terminate();
  const refused = new WebSocket(`${url}/v1/nothing`, { headers });
  const refusal = await new Promise((resolve) =>
    refused.on('unexpected-response', (_, { statusCode, headers: got }) =>
      resolve([statusCode, got['x-request-id']]),
    ),
  );
  expect(refusal).toEqual([404, 'socket']);
  refused.on('error', () => undefined).terminate();
});

test('an error of the SDK names the request, and when to try again', async () => {
  const { url: apiUrl, apiKey } = harness.controlPlane;
  await using torpor = new Torpor({ apiUrl, apiKey });
  site.agent.limits.memoryMb = 200;
  const full = await torpor.sandboxes.create().catch((error: unknown) => error);
  site.agent.limits.memoryMb = 4096;
  const unknown = await torpor.sandboxes.get('nope').catch((error: unknown) => error);
  if (!(full instanceof TorporError && unknown instanceof TorporError)) throw full;
  expect(logged(full.requestId ?? '')).toContain('Request failed');
  expect(full).toMatchObject({ code: 'no_hosts_available', retryAfterSec: 10 });
  expect(logged(unknown.requestId ?? '')).toContain('Request handled');
  expect(unknown).toMatchObject({ code: 'not_found', retryAfterSec: undefined });
});

test('the page of errors has every code', async () => {
  const page = await (await harness.request('/docs/errors')).text();
  for (const code of Object.keys(ERRORS) as ErrorCode[]) expect(page).toContain(`id="${code}"`);
});
