import { request as httpRequest } from 'node:http';
import { rest, TorporError } from '@torpor/protocol';
import { type Harness, startHarness } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

let harness: Harness;

beforeAll(async () => {
  harness = await startHarness();
});

afterAll(async () => {
  await harness[Symbol.asyncDispose]();
});

async function expectError(response: Response, status: number, code: string): Promise<string> {
  expect(response.status).toBe(status);
  expect(response.headers.get('content-type')).toContain('application/json');
  const body = rest.errorBodySchema.parse(await response.json());
  expect(body.error.code).toBe(code);
  return body.error.message;
}

const post = (body: string | Buffer<ArrayBuffer>) =>
  harness.request('/v1/sandboxes', { method: 'POST', body });

describe('keys', () => {
  test.each<[string, Record<string, string>]>([
    ['none', {}],
    ['an empty one', { 'x-api-key': '' }],
    ['a wrong one', { 'x-api-key': `tpr_${'0'.repeat(40)}` }],
    ['nonsense', { 'x-api-key': 'password' }],
    ['a bearer token', { authorization: `Bearer tpr_${'0'.repeat(40)}` }],
  ])('%s is refused, and the agent not called', async (_, headers) => {
    const calls = harness.agent.count('createSandbox') + harness.agent.count('describeHost');
    const response = await fetch(`${harness.controlPlane.url}/v1/sandboxes`, {
      method: 'POST',
      body: '{}',
      headers,
    });
    await expectError(response, 401, 'unauthorized');
    expect(harness.agent.count('createSandbox') + harness.agent.count('describeHost')).toBe(calls);
  });

  test('the same key is accepted with the prefix of E2B', async () => {
    const key = harness.controlPlane.apiKey.replace(/^tpr_/, 'e2b_');
    const response = await fetch(`${harness.controlPlane.url}/v1/sandboxes`, {
      headers: { 'x-api-key': key },
    });
    expect(response.status).toBe(200);
  });
});

describe('malformed requests', () => {
  test.each([
    ['{', 'not valid JSON'],
    ['{"vcpus":1}}', 'not valid JSON'],
    [Buffer.from([0x22, 0xff, 0x22]), 'not valid JSON'],
    ['"text"', 'object'],
    ['null', 'object'],
  ])('%j', async (body, message) => {
    expect(await expectError(await post(body), 400, 'invalid_request')).toContain(message);
  });

  test('a body over the limit is refused by its length', async () => {
    const body = JSON.stringify({ metadata: { a: 'x'.repeat(rest.MAX_JSON_BODY_BYTES) } });
    expect(await expectError(await post(body), 413, 'too_large')).toContain(
      String(rest.MAX_JSON_BODY_BYTES),
    );
  });

  test('a body over the limit without a length is refused while it is received', async () => {
    const { url, apiKey } = harness.controlPlane;
    const request = httpRequest(`${url}/v1/sandboxes`, {
      method: 'POST',
      headers: { 'x-api-key': apiKey, 'transfer-encoding': 'chunked' },
    });
    request.on('error', () => undefined);
    const status = new Promise((resolve) => request.on('response', (r) => resolve(r.statusCode)));
    request.write('x'.repeat(rest.MAX_JSON_BODY_BYTES));
    request.write('x');
    expect(await status).toBe(413);
    request.destroy();
  });

  test('several faults are all named', async () => {
    const message = await expectError(
      await post(JSON.stringify({ vcpus: 'many', colour: 1 })),
      400,
      'invalid_request',
    );
    expect(message).toContain('vcpus');
    expect(message).toContain('colour is not a known field');
  });
});

test('an unknown path is 404, a wrong method 405 with the allowed ones', async () => {
  await expectError(await harness.request('/v1/nothing'), 404, 'not_found');
  await expectError(await harness.request('/nothing'), 404, 'not_found');
  const response = await harness.request('/v1/sandboxes', { method: 'PATCH' });
  expect(response.headers.get('allow')).toBe('POST, GET');
  await expectError(response, 405, 'method_not_allowed');
});

test('an internal error is logged, and not shown to the client', async () => {
  harness.agent.createError = new TorporError('internal_error', 'assertion at secret-place failed');
  const response = await harness.send('POST', '/v1/sandboxes', { metadata: { inner: 'yes' } });
  harness.agent.createError = undefined;
  expect(await expectError(response, 500, 'internal_error')).toBe('An internal error occurred.');
  const rows = await harness.request('/v1/sandboxes?metadata=inner%3Dyes');
  expect(await rows.text()).not.toContain('secret-place');
  expect(harness.log()).toContain('secret-place');
});

test('health and metrics need no key', async () => {
  const { url } = harness.controlPlane;
  expect(await (await fetch(`${url}/health`)).json()).toEqual({
    status: 'ok',
    version: '0.0.0-test',
  });
  await harness.create({ memory_mb: 128 });
  await harness.request('/v1/sandboxes/nope');
  const response = await fetch(`${url}/metrics`);
  expect(response.headers.get('content-type')).toContain('text/plain');
  const text = await response.text();
  expect(text).toMatch(/torpor_sandboxes\{state="running"\} \d/);
  expect(text).toMatch(/torpor_sandbox_create_duration_seconds_count\{outcome="success"\} \d/);
  expect(text).toContain(
    'torpor_http_request_duration_seconds_count{method="GET",route="/v1/sandboxes/{id}",status="404"}',
  );
  expect(text).toContain('process_resident_memory_bytes');
});

test('the documentation page loads nothing from elsewhere', async () => {
  const { url } = harness.controlPlane;
  const page = await fetch(`${url}/docs`);
  expect(page.headers.get('content-security-policy')).toContain("default-src 'none'");
  const html = await page.text();
  const links = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, link]) => link ?? '');
  expect(links.length).toBeGreaterThan(3);
  for (const link of links) {
    expect(link).toMatch(/^\/docs\//);
    const asset = await fetch(`${url}${link}`);
    expect(asset.status).toBe(200);
    expect((await asset.arrayBuffer()).byteLength).toBeGreaterThan(50);
  }
  const document = (await (await fetch(`${url}/openapi.json`)).json()) as { openapi: string };
  expect(document.openapi).toBe('3.1.0');
});

test('logs hold neither keys, nor environments, nor tokens, nor bodies', async () => {
  const secrets = ['s3cret-env-value', 's3cret-argument', 's3cret-query', 's3cret-exec-env'];
  const { id } = await harness.create({ memory_mb: 128, envs: { TOKEN: secrets[0] } });
  await harness.send('POST', `/v1/sandboxes/${id}/exec`, {
    cmd: 'echo',
    args: [secrets[1]],
    envs: { TOKEN: secrets[3] },
  });
  await harness.request(`/v1/sandboxes?colour=${secrets[2]}`);
  await harness.send('POST', '/v1/sandboxes', { envs: { TOKEN: secrets[0] }, vcpus: -1 });
  await harness.request('/v1/sandboxes', { headers: { 'x-api-key': `tpr_${'7'.repeat(40)}` } });
  const log = harness.log();
  expect(log).toContain(id);
  expect(log).toContain('/v1/sandboxes/{id}/exec');
  for (const secret of [...secrets, '7'.repeat(40), harness.controlPlane.apiKey.slice(4)]) {
    expect(log).not.toContain(secret);
  }
});
