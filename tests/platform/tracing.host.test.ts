/** The traces of requests, from the control plane through the agent into guests. */
import { join } from 'node:path';
import { logRequestIds } from '@torpor/protocol';
import { Torpor } from '@torpor/sdk';
import { startTracing, type Tracing } from '@torpor/telemetry';
import { cli } from '@torpor/testkit/cli';
import { type CollectedSpan, Collector } from '@torpor/testkit/collector';
import { recordingLogger } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type HostStack, startHostStack } from '../support/host-stack.ts';

const TRACE_ID = '0af7651916cd43dd8448eb211c80319c';
const CALLER = 'b7ad6b7169203331';
const SECRET = 'a-secret-of-the-user';

const SERVER = 2;
const CLIENT = 3;

const resources = new AsyncDisposableStack();
const { logger, text } = recordingLogger();
let stack: HostStack;
let collector: Collector;
let tracing: Tracing;

beforeAll(async () => {
  collector = resources.use(await Collector.start());
  tracing = resources.use(
    await startTracing({
      settings: { endpoint: collector.url, protocol: 'http/json' },
      defaultServiceName: 'torpor',
      version: '0.0.0-test',
      logger,
      timing: { batchDelayMs: 50, closeTimeoutMs: 500 },
    }),
  );
  stack = resources.use(await startHostStack(4, { logger: logRequestIds(logger), tracing }));
});
afterAll(() => resources.disposeAsync());

async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = { 'x-api-key': stack.apiKey, 'content-type': 'application/json' };
  return fetch(`${stack.apiUrl}${path}`, { ...init, headers: { ...headers, ...init.headers } });
}

/** The spans of a trace, once the request of this name has been exported. */
async function traceWith(traceId: string, name: string): Promise<CollectedSpan[]> {
  const spans = () => collector.spans.filter((span) => span.traceId === traceId);
  await expect.poll(() => spans().map((span) => span.name)).toContain(name);
  return spans();
}

/** Each span below its parent, as an indented list. */
function tree(spans: readonly CollectedSpan[], parent: string | undefined, depth = 0): string[] {
  return spans
    .filter(({ parentSpanId }) => parentSpanId === parent)
    .sort((a, b) => Number(a.startNs - b.startNs))
    .flatMap((span) => [
      `${'  '.repeat(depth)}${span.name}`,
      ...tree(spans, span.spanId, depth + 1),
    ]);
}

function find(spans: readonly CollectedSpan[], name: string, kind?: number): CollectedSpan {
  const found = spans.find((span) => span.name === name && (kind ?? span.kind) === span.kind);
  if (found === undefined) throw new Error(`There is no span ${name}.`);
  return found;
}

test('a create and an exec are parts of the trace of their client', async () => {
  const headers = { traceparent: `00-${TRACE_ID}-${CALLER}-01`, 'x-request-id': 'the-create' };
  const created = await request(`/v1/sandboxes?name=${SECRET}`, {
    method: 'POST',
    body: JSON.stringify({ envs: { TOKEN: SECRET } }),
    headers,
  });
  expect(created.status).toBe(201);
  const { id } = (await created.json()) as { id: string };
  const exec = { cmd: '/bin/echo', args: [SECRET], envs: { TOKEN: SECRET } };
  await request(`/v1/sandboxes/${id}/exec`, {
    method: 'POST',
    body: JSON.stringify(exec),
    headers,
  });
  const spans = await traceWith(TRACE_ID, 'POST /v1/sandboxes/{id}/exec');
  expect(tree(spans, CALLER)).toEqual([
    'POST /v1/sandboxes',
    '  sandbox.create',
    '    sandbox.create.lock',
    '    sandbox.create.begin',
    '    sandbox.create.perform',
    '      hostagent.v1.HostAgentService/CreateSandbox',
    '        hostagent.v1.HostAgentService/CreateSandbox',
    '          agent.queue',
    '          agent.network',
    '          agent.disk',
    '          agent.vmm',
    '          agent.boot',
    '          agent.init',
    '            envd POST /init',
    '    sandbox.create.complete',
    'POST /v1/sandboxes/{id}/exec',
    '  hostagent.v1.HostAgentService/Exec',
    '    hostagent.v1.HostAgentService/Exec',
    '      process.Process/Start',
  ]);
  expect(find(spans, 'POST /v1/sandboxes').attributes).toEqual({
    'http.request.method': 'POST',
    'http.route': '/v1/sandboxes',
    'http.response.status_code': 201,
    'torpor.operation': 'sandbox.create',
    'torpor.request.id': 'the-create',
    'torpor.sandbox.id': id,
    'torpor.team.id': expect.stringMatching(/^tm/),
  });
  const calls = spans.filter(({ name }) => name.endsWith('/CreateSandbox'));
  expect(calls.map(({ kind, scope }) => [kind, scope]).sort()).toEqual([
    [SERVER, 'torpor.agent'],
    [CLIENT, 'torpor.control-plane'],
  ]);
  for (const name of ['envd POST /init', 'process.Process/Start']) {
    const { attributes, startNs, endNs } = find(spans, name);
    const milliseconds = Number(endNs - startNs) / 1e6;
    expect(attributes['torpor.sandbox.id']).toBe(id);
    expect(attributes['torpor.envd.duration_ms']).toBeLessThanOrEqual(milliseconds);
  }
  expect(spans.filter(({ failed }) => failed)).toEqual([]);
});

test('every line that is logged for a request has its trace beside its id', async () => {
  const id = '11111111111111111111111111111111';
  const headers = { traceparent: `00-${id}-${CALLER}-01`, 'x-request-id': 'logged' };
  await request('/v1/sandboxes/nope', { headers });
  const lines = text()
    .split('\n')
    .filter((line) => line.includes('"request_id":"logged"'))
    .map((line) => JSON.parse(line) as { trace_id: string });
  expect(lines.map(({ trace_id }) => trace_id)).toEqual([id]);
});

test('the SDK continues the trace that it is given, on requests and streams', async () => {
  const id = '22222222222222222222222222222222';
  const traceHeaders = () => ({ traceparent: `00-${id}-${CALLER}-01`, tracestate: 'vendor=x' });
  await using torpor = new Torpor({ ...stack, traceHeaders });
  const sandbox = await torpor.sandboxes.create();
  const session = await sandbox.execStream('/bin/true');
  await session.wait();
  // The programs of this sandbox are those of this machine.
  await sandbox.files.write(join(stack.dataDir, 'traced'), SECRET);
  await sandbox.pause();
  await sandbox.resume();
  await sandbox.destroy();
  await traceWith(id, 'DELETE /v1/sandboxes/{id}');
  const names = () =>
    tree(
      collector.spans.filter(({ traceId }) => traceId === id),
      CALLER,
    );
  // What is left of a stream ends after its last message.
  await expect.poll(names).toEqual(expect.arrayContaining(['      process.Process/Start']));
  const requests = names().filter((name) => !name.startsWith(' '));
  expect(requests).toEqual([
    'POST /v1/sandboxes',
    'GET /v1/sandboxes/{id}/exec/stream',
    'PUT /v1/sandboxes/{id}/files',
    'POST /v1/sandboxes/{id}/pause',
    'POST /v1/sandboxes/{id}/resume',
    'DELETE /v1/sandboxes/{id}',
  ]);
  expect(names()).toEqual(
    expect.arrayContaining([
      '      envd POST /files',
      '    sandbox.pause.perform',
      '          agent.publish',
      '          agent.restore',
      '          agent.remove',
    ]),
  );
});

test('a command continues the trace of the variable TRACEPARENT', async () => {
  const id = '44444444444444444444444444444444';
  const env = { TORPOR_API_URL: stack.apiUrl, TORPOR_API_KEY: stack.apiKey };
  const traceparent = `00-${id}-${CALLER}-01`;
  expect((await cli(['ls'], { env: { ...env, TRACEPARENT: traceparent } })).exitCode).toBe(0);
  expect(tree(await traceWith(id, 'GET /v1/sandboxes'), CALLER)).toEqual(['GET /v1/sandboxes']);
  const unusable = { ...env, TRACEPARENT: 'a\nb', TRACESTATE: 'a\nb' };
  expect((await cli(['ls'], { env: unusable })).exitCode).toBe(0);
});

test('the end of a sandbox that was not used is a trace of the agent', async () => {
  const { id } = (await (
    await request('/v1/sandboxes', {
      method: 'POST',
      body: JSON.stringify({ timeout_sec: 1 }),
    })
  ).json()) as { id: string };
  const reaped = () =>
    collector.spans.filter(
      ({ name, attributes }) => name === 'agent.reap' && attributes['torpor.sandbox.id'] === id,
    );
  await stack.reapAfter(1000);
  await expect.poll(() => reaped().map(({ scope }) => scope)).toContain('torpor.agent');
});

test('a request that fails names the code, and its operation how it was settled', async () => {
  const id = '33333333333333333333333333333333';
  const headers = { traceparent: `00-${id}-${CALLER}-01` };
  const body = JSON.stringify({ memory_mb: 4096, template: 'none-of-this-name' });
  await request('/v1/sandboxes', { method: 'POST', body, headers });
  await request('/v1/sandboxes/x/exec/stream', { headers });
  const spans = await traceWith(id, 'GET /v1/sandboxes/{id}/exec/stream');
  expect(find(spans, 'POST /v1/sandboxes').attributes).toMatchObject({
    'http.response.status_code': 404,
    'error.type': 'not_found',
  });
});

test('without a trace of its client, a request starts one', async () => {
  const before = collector.spans.length;
  await request('/health', { headers: { traceparent: 'nonsense', 'x-request-id': 'alone' } });
  const own = () =>
    collector.spans
      .slice(before)
      .find(({ attributes }) => attributes['torpor.request.id'] === 'alone');
  await expect.poll(own).toMatchObject({ name: 'GET /health', parentSpanId: undefined });
});

test('nothing that users send is exported', () => {
  const exported = collector.requests.map(({ body }) => body.toString()).join();
  expect(exported).not.toContain(SECRET);
  expect(exported).not.toContain(stack.apiKey);
});

test('a collector that hangs delays no request', async () => {
  collector.mode = 'hang';
  const pending = collector.requests.length;
  for (let i = 0; i < 50; i++) expect((await request('/health')).status).toBe(200);
  await expect.poll(() => collector.requests.length).toBeGreaterThan(pending);
  expect((await request('/v1/sandboxes')).status).toBe(200);
  collector.mode = 'accept';
});
