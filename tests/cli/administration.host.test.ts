import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { MEMBER_PERMISSIONS } from '@torpor/protocol';
import { type CliInput, cli } from '@torpor/testkit/cli';
import { type Harness, startHarness, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness({
    webhookNetworks: ['127.0.0.0/8'],
    webhookTiming: { pollIntervalMs: 20 },
  });
});
afterAll(async () => harness[Symbol.asyncDispose]());

function torpor(args: readonly string[], input: CliInput = {}) {
  return cli(args, { ...input, env: { TORPOR_DATA_DIR: harness.dataDir, ...input.env } });
}

async function ok(...args: string[]): Promise<string> {
  const { stdout, stderr, exitCode } = await torpor(args);
  expect(exitCode, stderr).toBe(0);
  return stdout;
}

async function createAndRemove(): Promise<string> {
  const id = (await ok('create')).trim();
  await ok('rm', id);
  return id;
}

describe('key', () => {
  test('create prints only the key, which works until it is revoked', async () => {
    const key = (await ok('key', 'create', 'ci', '--scopes', 'sandboxes.read')).trim();
    expect(key).toMatch(/^tpr_[0-9a-f]{40}$/);
    expect((await torpor(['ls', '--api-key', key])).exitCode).toBe(0);
    const refused = await torpor(['create', '--api-key', key]);
    expect(refused.exitCode).not.toBe(0);
    expect(refused.stderr).toContain('sandboxes.write');
    const listed = JSON.parse(await ok('key', 'ls', '--json'));
    const { id } = listed.find(({ name }: { name: string }) => name === 'ci');
    expect(await ok('key')).toMatch(new RegExp(`^${id} +ci +${key.slice(0, 10)}…`, 'm'));
    expect(await ok('key', 'rm', id)).toBe(`${id}\n`);
    expect((await torpor(['ls', '--api-key', key])).stderr).toContain('not valid');
  });

  test('without scopes a key can do what a member can, and it expires when asked to', async () => {
    const before = Date.now();
    const created = JSON.parse(await ok('key', 'create', 'short', '--expires', '30d', '--json'));
    expect(created.scopes).toEqual(MEMBER_PERMISSIONS);
    const lifetime = Date.parse(created.expires_at) - before;
    expect(lifetime / 86_400_000).toBeCloseTo(30, 2);
  });

  test.each([
    [['key', 'create', 'a', '--scopes', 'everything'], 'sandboxes.read'],
    [['key', 'create', 'a', '--expires', 'soon'], '--expires'],
    [['key', 'create'], 'name'],
  ])('%j is refused', async (args, message) => {
    const { exitCode, stderr } = await torpor(args);
    expect(exitCode).toBe(2);
    expect(stderr).toContain(message);
  });
});

test('audit lists who did what, newest first', async () => {
  const id = await createAndRemove();
  const lines = async () => (await ok('audit', '--resource', id)).trimEnd().split('\n');
  await until(async () => (await lines()).length === 3);
  const [header, ...entries] = await lines();
  expect(header).toMatch(/^TIME +ACTOR +ACTION +RESOURCE +STATUS/);
  expect(entries.map((line) => line.split(/ +/).slice(1, 5))).toEqual([
    ['local', 'sandbox.destroy', id, 'success'],
    ['local', 'sandbox.create', id, 'success'],
  ]);
  expect((await ok('audit', '--resource', id, '--action', 'create')).match(/create/g)).toHaveLength(
    1,
  );
  expect((await ok('audit', '--all', '--resource', id)).split('\n')[0]).toMatch(
    /^TIME +TEAM +ACTOR/,
  );
  expect(JSON.parse(await ok('audit', '-n', '1', '--resource', id, '--json'))).toMatchObject([
    { action: 'destroy', resource_id: id },
  ]);
  expect((await ok('audit', '--failed', '--resource', id)).trim().split('\n')).toHaveLength(1);
});

test('events prints those that are kept, and follows until it is interrupted', async () => {
  const id = await createAndRemove();
  const args = ['events', '--after', '0', '--no-follow', '--resource', id];
  await until(async () => (await ok(...args)).trimEnd().split('\n').length === 4);
  const events = (await ok(...args, '--json'))
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(events.map(({ type }) => type).filter((type) => type !== 'sandbox.state')).toEqual([
    'sandbox.create',
    'sandbox.destroy',
  ]);
  const refused = await torpor(['events', '--after', 'x', '--no-follow']);
  expect(refused.exitCode).toBe(2);
  expect(refused.stderr).toContain('--after must be the id of an event');
});

test('usage has the day, and its total', async () => {
  await createAndRemove();
  await until(async () => (await ok('usage')).includes(new Date().toISOString().slice(0, 10)));
  const usage = JSON.parse(await ok('usage', '--days', '2', '--json'));
  expect(usage.points).toHaveLength(2);
  expect(usage.total.vcpu_seconds).toBeGreaterThan(0);
});

test('quota shows what is used and allowed, and sets it', async () => {
  expect(await ok('quota')).toMatch(/^running_sandboxes +0 +unlimited +the team$/m);
  const { team_id } = JSON.parse(await ok('quota', '--json'));
  const set = await ok('quota', 'set', team_id, 'running_sandboxes=0', 'webhooks=default');
  expect(set).toMatch(/^running_sandboxes +0 +0 +the team$/m);
  expect(set).toMatch(/^webhooks +\d+ +20 +the platform$/m);
  const refused = await torpor(['create']);
  expect(refused.stderr).toContain('The quota running_sandboxes of the team is 0');
  expect(refused.stderr).toContain('ask the operator');
  await ok('quota', 'set', team_id, 'running_sandboxes=unlimited', 'webhooks=unlimited');
  expect((await torpor(['quota', 'ls', '--team', 'tmnone'])).stderr).toContain('no team');
  for (const wrong of ['running=1', 'vcpus=', 'vcpus=-1', 'vcpus=1.5']) {
    expect((await torpor(['quota', 'set', team_id, wrong])).exitCode, wrong).toBe(2);
  }
});

test('webhook: create, test, deliveries, rm', async () => {
  const received: string[] = [];
  const server = createServer(async (request, response) => {
    received.push(await text(request));
    response.writeHead(received.length === 1 ? 200 : 500).end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  try {
    const secret = await ok('webhook', 'create', 'alerts', url, '-e', 'sandbox.create');
    expect(secret).toMatch(/^whsec_\S+\n$/);
    expect(await ok('webhook', 'test', 'alerts')).toBe('accepted, status 200\n');
    const failed = await torpor(['webhook', 'test', 'alerts']);
    expect(failed.exitCode).toBe(1);
    expect(failed.stdout).toContain('500');
    expect(await ok('webhook')).toMatch(/alerts +127\.0\.0\.1:\d+ +json +yes +sandbox\.create/);
    const id = await createAndRemove();
    const deliveries = async () =>
      await ok('webhook', 'deliveries', 'alerts', '--state', 'pending');
    await until(async () => (await deliveries()).includes(id));
    expect(await ok('webhook', 'redeliver', 'alerts')).toBe('0\n');
    const rotated = await ok('webhook', 'rotate-secret', 'alerts');
    expect(rotated).toMatch(/^whsec_/);
    expect(rotated).not.toBe(secret);
    await ok('webhook', 'update', 'alerts', '--events', 'host.*,sandbox.*', '--disable');
    expect(await ok('webhook')).toMatch(/alerts +127\.0\.0\.1:\d+ +json +no +host\.\*,sandbox/);
    await ok('webhook', 'update', 'alerts', '--enable', '--format', 'slack', '--url', `${url}x`);
    expect(await ok('webhook')).toMatch(/alerts +127\.0\.0\.1:\d+ +slack +yes +host\.\*,sandbox/);
    for (const [options, message] of [
      [[], 'There is nothing to change.'],
      [['--enable', '--disable'], 'cannot be used with'],
      [['--events', 'sandbox.created'], '--events'],
    ] as const) {
      const refused = await torpor(['webhook', 'update', 'alerts', ...options]);
      expect(refused.exitCode, message).not.toBe(0);
      expect(refused.stderr).toContain(message);
    }
    expect(await ok('webhook', 'rm', 'alerts')).toBe('alerts\n');
    const gone = await torpor(['webhook', 'test', 'alerts']);
    expect(gone.stderr).toContain('no webhook "alerts"');
  } finally {
    server.closeAllConnections();
    server.close();
  }
});
