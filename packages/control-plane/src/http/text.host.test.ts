/** Text that cannot be stored or passed on: refused wherever a request can have it, and never an internal error. */
import { TorporError } from '@torpor/protocol';
import { errorOf, type Harness, startHarness, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness[Symbol.asyncDispose]());

const token = (...content: unknown[]) => Buffer.from(JSON.stringify(content)).toString('base64url');

test.each([
  ['GET', '/v1/audit-logs?resource_id=%00'],
  ['GET', '/v1/audit-logs?action=a%00'],
  ['GET', '/v1/audit-logs?actor_id=%00'],
  ['GET', '/v1/audit-logs?before=2026-01-01T00:00:00Z&before_id=%00'],
  ['GET', '/v1/events?follow=false&type=%00'],
  ['GET', '/v1/events?follow=false&resource_id=%00'],
  ['GET', '/v1/teams/%00/quotas'],
  ['GET', '/v1/webhooks/%00'],
  ['GET', '/v1/webhooks/%00/deliveries'],
  ['DELETE', '/v1/webhooks/%00'],
  ['DELETE', '/v1/api-keys/%00'],
  ['DELETE', '/v1/snapshots/%00'],
  ['DELETE', '/v1/sandboxes/%00'],
  ['GET', `/v1/webhooks?next_token=${token('webhooks', 'a\0')}`],
  ['GET', `/v1/snapshots?next_token=${token('snapshots', 'a\ud800')}`],
  [
    'GET',
    `/v1/api-keys?next_token=${token('api-keys', { createdAt: '-271821-04-20T00:00:00.000Z', id: `key${'a'.repeat(21)}` })}`,
  ],
])('%s %s', async (method, path) => {
  const response = await harness.request(path, { method });
  expect(await errorOf(response)).toMatchObject({ status: 400, code: 'invalid_request' });
});

test.each<[string, object, string]>([
  ['/v1/sandboxes', { metadata: { a: 'b\0' } }, 'metadata.a must not contain a NUL byte'],
  ['/v1/sandboxes', { metadata: { 'a\0': 'b' } }, 'metadata has a name with a NUL byte'],
  ['/v1/sandboxes', { metadata: { a: '\ud800' } }, 'metadata.a must not contain half'],
  ['/v1/sandboxes', { envs: { A: '\udfff' } }, 'envs.A must not contain half'],
  [
    '/v1/webhooks',
    { name: 'w', url: 'https://example.com/\0', event_types: ['sandbox.*'] },
    'url must not contain a NUL byte',
  ],
  ['/v1/api-keys', { name: '\ud800' }, 'name must be'],
  ['/v1/api-keys', { name: '   ' }, 'name must be'],
  ['/v1/api-keys', { name: '\u200d' }, 'name must be'],
  ['/v1/api-keys', { name: 'key\u202egnp' }, 'name must be'],
])('%s with the body %j', async (path, body, message) => {
  const error = await errorOf(await harness.send('POST', path, body));
  expect(error).toMatchObject({ status: 400, code: 'invalid_request' });
  expect(error.message).toContain(message);
});

test.each(['ci', '  padded ', 'Ключ 🔑', '👩‍💻', 'a'.repeat(64)])('%j is a name', async (name) => {
  expect((await harness.send('POST', '/v1/api-keys', { name })).status).toBe(201);
});

test('a NUL in what a host says about a sandbox is stored as a replacement character', async () => {
  harness.agent.createError = new TorporError('init_failed', 'The file a\0b is missing.');
  const { message } = await errorOf(await harness.send('POST', '/v1/sandboxes', {}));
  const id = /sb[0-9a-z]+/.exec(message)?.[0] ?? '';
  expect(await harness.get(id)).toMatchObject({
    status: 'error',
    reason: 'The file a\ufffdb is missing.',
  });
  harness.agent.createError = undefined;
  const other = await harness.create();
  harness.agent.report(other.id, 'error', 'It said \0.');
  await until(async () => (await harness.get(other.id)).status === 'error');
  expect(await harness.get(other.id)).toMatchObject({ reason: 'It said \ufffd.' });
});
