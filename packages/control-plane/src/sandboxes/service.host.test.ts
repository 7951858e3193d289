import { type rest, TorporError } from '@torpor/protocol';
import { errorOf, type Harness, startHarness, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

let harness: Harness;

beforeAll(async () => {
  harness = await startHarness();
});

afterAll(async () => {
  await harness[Symbol.asyncDispose]();
});

describe('create', () => {
  test('returns the running sandbox and its defaults', async () => {
    const sandbox = await harness.create({ metadata: { project: 'demo' } });
    expect(sandbox).toMatchObject({
      status: 'running',
      template: 'base',
      vcpus: 1,
      memory_mb: 512,
      timeout_sec: 0,
      allow_internet: true,
      host_ip: '10.11.0.2',
      metadata: { project: 'demo' },
      versions: { vmm: 'memory', envd_version: '0' },
      timings: [{ phase: 'boot', milliseconds: 1.5 }],
    });
    expect(sandbox.id).toMatch(/^sb[a-z0-9]{20}$/);
    expect(sandbox.started_at).toBeDefined();
    const { timings: _, ...stored } = sandbox;
    expect(await harness.get(sandbox.id)).toEqual(stored);
  });

  test('passes everything on to the agent', async () => {
    const sandbox = await harness.create({
      template: 'python',
      vcpus: 2,
      memory_mb: 256,
      timeout_sec: 60,
      disk_size_mb: 2048,
      envs: { GREETING: 'hello' },
      allow_internet: false,
    });
    expect(harness.agent.requests.at(-1)).toMatchObject({
      sandboxId: sandbox.id,
      templateId: 'python',
      vcpus: 2,
      memoryMb: 256,
      timeoutSec: 60,
      diskSizeMb: 2048,
      envs: { GREETING: 'hello' },
      denyInternet: true,
    });
  });

  test.each([
    [{ template: 'nope' }, 404, 'not_found', 'base, python'],
    [{ vcpus: 0 }, 400, 'invalid_request', 'vcpus must be 1 to 4'],
    [{ vcpus: 10_000 }, 400, 'invalid_request', 'vcpus must be 1 to 4'],
    [{ vcpus: 1.5 }, 400, 'invalid_request', 'vcpus'],
    [{ memory_mb: 64 }, 400, 'invalid_request', 'memory_mb must be 128 to 2048'],
    [{ memory_mb: 1_000_000 }, 400, 'capacity_exceeded', '1000000'],
    [{ memory_mb: 1_000_000 }, 400, 'capacity_exceeded', '2048'],
    [{ colour: 'red' }, 400, 'invalid_request', 'colour is not a known field'],
    [{ envs: { 'A=B': 'x' } }, 400, 'invalid_request', 'envs'],
    [{ template: '../etc' }, 400, 'invalid_request', 'template'],
    [{ timeout_sec: -1 }, 400, 'invalid_request', 'timeout_sec'],
    [[], 400, 'invalid_request', 'object'],
  ])('refuses %j before anything is created', async (body, status, code, message) => {
    const before = harness.agent.count('createSandbox');
    const rows = await listAll();
    const error = await errorOf(await harness.send('POST', '/v1/sandboxes', body));
    expect(error).toMatchObject({ status, code });
    expect(error.message).toContain(message);
    expect(harness.agent.count('createSandbox')).toBe(before);
    expect(await listAll()).toEqual(rows);
  });

  test('reports the failure of the agent, keeps the reason and cleans up', async () => {
    harness.agent.createError = new TorporError('vmm_failed', 'QEMU exited with status 1.');
    const before = harness.agent.count('destroySandbox');
    const error = await errorOf(await harness.send('POST', '/v1/sandboxes', {}));
    harness.agent.createError = undefined;
    expect(error).toMatchObject({ status: 502, code: 'vmm_failed' });
    expect(error.message).toContain('QEMU exited with status 1.');
    expect(harness.agent.count('destroySandbox')).toBe(before + 1);
    const [id] = /sb[a-z0-9]{20}/.exec(error.message) ?? [''];
    expect(await harness.get(id)).toMatchObject({
      status: 'error',
      reason: 'QEMU exited with status 1.',
    });
    expect((await harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' })).status).toBe(204);
  });

  test('completes when the client disconnects', async () => {
    const gate = Promise.withResolvers<void>();
    harness.agent.createGate = gate.promise;
    const before = harness.agent.count('createSandbox');
    const abort = new AbortController();
    const response = harness.request('/v1/sandboxes', {
      method: 'POST',
      body: JSON.stringify({ metadata: { run: 'hang-up' } }),
      signal: abort.signal,
    });
    await until(() => harness.agent.count('createSandbox') > before);
    abort.abort();
    await expect(response).rejects.toThrow();
    gate.resolve();
    harness.agent.createGate = Promise.resolve();
    await until(async () => {
      const { sandboxes } = await list('metadata=run%3Dhang-up');
      return sandboxes[0]?.status === 'running';
    });
  });

  test('does not reserve the same memory twice', async () => {
    await destroyAll();
    const responses = await Promise.all(
      Array.from({ length: 5 }, () =>
        harness.send('POST', '/v1/sandboxes', { memory_mb: 2048 }).then(errorOrStatus),
      ),
    );
    expect(responses.toSorted()).toEqual([
      201,
      201,
      'no_hosts_available',
      'no_hosts_available',
      'no_hosts_available',
    ]);
    await destroyAll();
  });
});

describe('list', () => {
  test('pages through all sandboxes, newest first, without gaps', async () => {
    await destroyAll();
    const ids: string[] = [];
    for (let count = 0; count < 5; count++) ids.push((await harness.create({ memory_mb: 128 })).id);
    const seen: string[] = [];
    let token: string | undefined;
    do {
      const page = await list(`limit=2${token === undefined ? '' : `&next_token=${token}`}`);
      expect(page.sandboxes.length).toBeLessThanOrEqual(2);
      seen.push(...page.sandboxes.map((sandbox) => sandbox.id));
      token = page.next_token;
    } while (token !== undefined);
    expect(seen).toEqual(ids.toReversed());
  });

  test('filters by state, template and metadata', async () => {
    await destroyAll();
    const destroyed = await harness.create({ memory_mb: 128 });
    await harness.request(`/v1/sandboxes/${destroyed.id}`, { method: 'DELETE' });
    const red = await harness.create({ memory_mb: 128, metadata: { colour: 'red', size: 'l' } });
    const python = await harness.create({ memory_mb: 128, template: 'python' });
    const ids = async (query: string) =>
      (await list(query)).sandboxes.map((sandbox) => sandbox.id).toSorted();
    expect(await ids('')).toEqual([red.id, python.id].toSorted());
    expect(await ids('state=stopped,error')).toContain(destroyed.id);
    expect(await ids('template=python')).toEqual([python.id]);
    expect(await ids('metadata=colour%3Dred&metadata=size%3Dl')).toEqual([red.id]);
    expect(await ids('metadata=colour%3Dblue')).toEqual([]);
  });

  test.each([
    'limit=0',
    'limit=1001',
    'state=dancing',
    'metadata=novalue',
    'next_token=xyz',
    'colour=red',
  ])('refuses ?%s', async (query) => {
    const error = await errorOf(await harness.request(`/v1/sandboxes?${query}`));
    expect(error).toMatchObject({ status: 400, code: 'invalid_request' });
    expect(error.message).toContain(query.split('=')[0]);
  });
});

describe('destroy', () => {
  test('is final and can be repeated', async () => {
    const { id } = await harness.create({ memory_mb: 128 });
    const destroy = () => harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' });
    const [first, second] = await Promise.all([destroy(), destroy()]);
    expect([first.status, second.status, (await destroy()).status]).toEqual([204, 204, 204]);
    expect(harness.agent.sandboxes.has(id)).toBe(false);
    const sandbox = await harness.get(id);
    expect(sandbox.status).toBe('stopped');
    expect(sandbox.ended_at).toBeDefined();
    const error = await errorOf(
      await harness.send('POST', `/v1/sandboxes/${id}/exec`, { cmd: 'true' }),
    );
    expect(error).toMatchObject({ status: 409, code: 'invalid_state' });
  });

  test('keeps the sandbox if the agent fails, and says so', async () => {
    const { id } = await harness.create({ memory_mb: 128 });
    harness.agent.destroyError = new TorporError('vmm_failed', 'It does not die.');
    const response = await harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' });
    harness.agent.destroyError = undefined;
    expect(await errorOf(response)).toMatchObject({ status: 502, code: 'vmm_failed' });
    expect((await harness.get(id)).status).toBe('running');
    expect((await harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' })).status).toBe(204);
  });

  test('succeeds for a sandbox that its host does not have', async () => {
    const { id } = await harness.create({ memory_mb: 128 });
    harness.agent.sandboxes.delete(id);
    expect((await harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' })).status).toBe(204);
    expect((await harness.get(id)).status).toBe('stopped');
  });
});

/** Of the reconciler, the sweeper and the heartbeat. */
const BACKGROUND_CALLS = new Set(['listSandboxes', 'listSnapshots', 'describeHost']);

test.each(['nope', 'sb00000000000000000000', '%2e%2e', `sb${'a'.repeat(500)}`])(
  'there is no sandbox %s',
  async (id) => {
    const calls = harness.agent.calls.length;
    for (const [method, path] of [
      ['GET', ''],
      ['DELETE', ''],
      ['POST', '/ping'],
      ['GET', '/console'],
      ['GET', '/processes'],
    ] as const) {
      const error = await errorOf(await harness.request(`/v1/sandboxes/${id}${path}`, { method }));
      expect(error).toMatchObject({ status: 404, code: 'not_found' });
    }
    const reached = harness.agent.calls.slice(calls).filter((call) => !BACKGROUND_CALLS.has(call));
    expect(reached).toEqual([]);
  },
);

test('reads the console and resets the idle timer', async () => {
  const { id } = await harness.create({ memory_mb: 128 });
  const console = await harness.request(`/v1/sandboxes/${id}/console?max_bytes=6`);
  expect(console.headers.get('content-type')).toContain('text/plain');
  expect(await console.text()).toBe('ready\n');
  const whole = await harness.request(`/v1/sandboxes/${id}/console`);
  expect(await whole.text()).toBe(harness.agent.console.toString());
  const most = await harness.request(`/v1/sandboxes/${id}/console?max_bytes=${1024 * 1024}`);
  expect(most.status).toBe(200);
  const more = await harness.request(`/v1/sandboxes/${id}/console?max_bytes=${1024 * 1024 + 1}`);
  expect(more.status).toBe(400);
  expect((await harness.request(`/v1/sandboxes/${id}/ping`, { method: 'POST' })).status).toBe(204);
  expect(harness.agent.count('pingSandbox')).toBe(1);
});

async function list(query: string): Promise<rest.SandboxList> {
  return (await (await harness.request(`/v1/sandboxes?${query}`)).json()) as rest.SandboxList;
}

async function listAll(): Promise<string[]> {
  return (await list('limit=1000')).sandboxes.map((sandbox) => sandbox.id);
}

async function destroyAll(): Promise<void> {
  for (const id of await listAll()) {
    await harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' });
  }
}

async function errorOrStatus(response: Response): Promise<number | string> {
  return response.status < 400 ? response.status : (await errorOf(response)).code;
}
