import { type rest, TorporError } from '@torpor/protocol';
import {
  BUILD_SIZE_BYTES,
  errorOf,
  type Harness,
  startHarness,
  until,
} from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

let harness: Harness;

beforeAll(async () => {
  harness = await startHarness();
});
afterAll(async () => {
  await harness[Symbol.asyncDispose]();
});
beforeEach(async () => {
  harness.agent.builds.reset();
  for (const { name } of await list('?type=snapshot')) await remove(name);
  await harness.clear();
});

const create = (body = {}) => harness.create({ memory_mb: 128, ...body });
const snapshot = (body: object, query = '') => harness.send('POST', `/v1/snapshots${query}`, body);
const remove = (name: string) => harness.request(`/v1/snapshots/${name}`, { method: 'DELETE' });

async function list(query = ''): Promise<rest.Snapshot[]> {
  const response = await harness.request(`/v1/snapshots${query}`);
  expect(response.status).toBe(200);
  return (await response.json()) as rest.Snapshot[];
}

async function made(response: Response): Promise<rest.Snapshot> {
  expect(response.status).toBe(201);
  return (await response.json()) as rest.Snapshot;
}

describe('create', () => {
  test('returns the snapshot, and leaves the source paused', async () => {
    const { id } = await create({ vcpus: 2 });
    const response = await made(await snapshot({ sandbox_id: id, name: 'warm' }));
    expect(response).toMatchObject({
      name: 'warm',
      type: 'snapshot',
      vcpus: 2,
      memory_mb: 128,
      size_bytes: BUILD_SIZE_BYTES,
      platform: false,
      metadata: { vmm: 'memory', envd_version: '0' },
    });
    expect(response.timings?.map(({ phase }) => phase)).toEqual(['memory', 'total']);
    expect((await harness.get(id)).status).toBe('paused');
    const { timings: _, ...stored } = response;
    expect(await (await harness.request('/v1/snapshots/warm')).json()).toEqual(stored);
    expect(await list('?type=snapshot')).toEqual([stored]);
  });

  test('generates a name if none is given, also from a paused sandbox', async () => {
    const { id } = await create();
    await harness.request(`/v1/sandboxes/${id}/pause`, { method: 'POST' });
    const { name } = await made(await snapshot({ sandbox_id: id }));
    expect(name).toMatch(/^template-[0-9a-f]{8}$/);
    expect((await harness.get(id)).status).toBe('paused');
  });

  test.each([
    ['../etc', 400, 'invalid_request'],
    ['a/b', 400, 'invalid_request'],
    ['-x', 400, 'invalid_request'],
    ['', 400, 'invalid_request'],
    ['x'.repeat(65), 400, 'invalid_request'],
    ['base', 409, 'name_reserved'],
    ['python', 409, 'name_reserved'],
  ])('refuses the name %j', async (name, status, code) => {
    const { id } = await create();
    const calls = harness.agent.count('createSnapshot');
    expect(await errorOf(await snapshot({ sandbox_id: id, name }))).toMatchObject({ status, code });
    expect(harness.agent.count('createSnapshot')).toBe(calls);
    expect((await harness.get(id)).status).toBe('running');
  });

  test('needs an existing sandbox that is running or paused', async () => {
    expect(await errorOf(await snapshot({}))).toMatchObject({
      status: 400,
      code: 'invalid_request',
    });
    expect(await errorOf(await snapshot({ sandbox_id: 'sbnosuchsandbox0000000' }))).toMatchObject({
      status: 404,
      code: 'not_found',
    });
    const { id } = await create();
    harness.agent.report(id, 'error', 'It died.');
    await until(async () => (await harness.get(id)).status === 'error');
    expect(await errorOf(await snapshot({ sandbox_id: id }))).toMatchObject({
      status: 409,
      code: 'invalid_state',
    });
  });

  test('a name that is in use is refused, unless it is to be overwritten', async () => {
    const first = await create();
    const second = await create({ memory_mb: 256 });
    await made(await snapshot({ sandbox_id: first.id, name: 'warm' }));
    const [old] = harness.agent.builds.templates.keys();
    const refused = await snapshot({ sandbox_id: second.id, name: 'warm' });
    expect(await errorOf(refused)).toMatchObject({
      status: 409,
      code: 'template_name_taken',
      remedy: 'Choose another name, or set overwrite to replace that snapshot.',
    });
    expect((await harness.get(second.id)).status).toBe('running');
    const response = await made(
      await snapshot({ sandbox_id: second.id, name: 'warm' }, '?overwrite=true'),
    );
    expect(response.memory_mb).toBe(256);
    expect((await list('?type=snapshot')).map(({ memory_mb }) => memory_mb)).toEqual([256]);
    expect(harness.agent.builds.templates.size).toBe(1);
    expect(harness.agent.builds.templates.has(old ?? '')).toBe(false);
  });

  test('of two concurrent snapshots with one name, one gets it, and the other source keeps running', async () => {
    const sources = [await create(), await create()];
    const responses = await Promise.all(
      sources.map(({ id }) => snapshot({ sandbox_id: id, name: 'warm' })),
    );
    expect(responses.map(({ status }) => status).toSorted()).toEqual([201, 409]);
    const states = await Promise.all(sources.map(async ({ id }) => (await harness.get(id)).status));
    expect(states.toSorted()).toEqual(['paused', 'running']);
    expect(harness.agent.builds.templates.size).toBe(1);
  });

  test('concurrent overwrites leave one snapshot, and no reference without a name', async () => {
    const sources = [await create(), await create(), await create()];
    const responses = await Promise.all(
      sources.map(({ id }) => snapshot({ sandbox_id: id, name: 'warm' }, '?overwrite=true')),
    );
    expect(responses.map(({ status }) => status)).toEqual([201, 201, 201]);
    expect(harness.agent.builds.templates.size).toBe(1);
    expect((await harness.create({ template: 'warm' })).status).toBe('running');
  });

  test('a failure leaves the sandbox running and the name as it was', async () => {
    const { builds } = harness.agent;
    const { id } = await create();
    const other = await create();
    await made(await snapshot({ sandbox_id: other.id, name: 'warm' }));
    builds.commitError = new TorporError('disk_full', 'The disk is full.');
    const failed = await snapshot({ sandbox_id: id, name: 'warm' }, '?overwrite=true');
    expect(failed.status).toBe(507);
    expect((await harness.get(id)).status).toBe('running');
    builds.commitError = undefined;
    expect(builds.templates.size).toBe(1);
    expect((await harness.create({ template: 'warm' })).status).toBe('running');
    await made(await snapshot({ sandbox_id: id, name: 'other' }));
  });

  test('completes when the client disconnects; a pause meanwhile finds the sandbox paused', async () => {
    const { id } = await create();
    const gate = Promise.withResolvers<void>();
    harness.agent.builds.commitGate = gate.promise;
    const abort = new AbortController();
    const response = harness.request('/v1/snapshots', {
      method: 'POST',
      body: JSON.stringify({ sandbox_id: id, name: 'warm' }),
      signal: abort.signal,
    });
    await until(async () => (await harness.get(id)).status === 'snapshotting');
    abort.abort();
    await expect(response).rejects.toThrow();
    const paused = harness.request(`/v1/sandboxes/${id}/pause`, { method: 'POST' });
    gate.resolve();
    expect((await paused).status).toBe(409);
    expect((await list('?type=snapshot')).map(({ name }) => name)).toEqual(['warm']);
  });
});

describe('create a sandbox from one', () => {
  test('with its own shape', async () => {
    const { id } = await create({ vcpus: 2, memory_mb: 256 });
    await made(await snapshot({ sandbox_id: id, name: 'warm' }));
    const child = await harness.create({ template: 'warm', envs: { A: '1' } });
    expect(child).toMatchObject({ template: 'warm', vcpus: 2, memory_mb: 256, status: 'running' });
    expect(child.build_id).toBeUndefined();
    const [templateId] = harness.agent.builds.templates.keys();
    expect(harness.agent.requests.at(-1)).toMatchObject({
      templateId,
      fromSnapshot: true,
      vcpus: 2,
      memoryMb: 256,
      envs: { A: '1' },
    });
    expect(await harness.create({ template: 'warm', vcpus: 2, memory_mb: 256 })).toBeDefined();
  });

  test.each([{ vcpus: 1 }, { memory_mb: 512 }, { disk_size_mb: 64 }])(
    'refuses another shape: %j',
    async (shape) => {
      const { id } = await create({ vcpus: 2, memory_mb: 256 });
      await made(await snapshot({ sandbox_id: id, name: 'warm' }));
      const calls = harness.agent.requests.length;
      const response = await harness.send('POST', '/v1/sandboxes', { template: 'warm', ...shape });
      expect(response.status).toBe(400);
      const { error } = (await response.json()) as rest.ErrorBody;
      expect(error.code).toBe('invalid_request');
      expect(error.issues?.map(({ field }) => field)).toEqual(Object.keys(shape));
      expect(error.message).toMatch(
        /(vcpus is 2|memory_mb is 256 MiB|disk_size_mb is 1024 MiB) in the snapshot warm and cannot be changed/,
      );
      expect(harness.agent.requests.length).toBe(calls);
    },
  );
});

describe('list and delete', () => {
  test('images are the templates of the platform, and cannot be deleted', async () => {
    expect(await list('?type=base')).toMatchObject([
      { name: 'base', type: 'base', platform: true },
      { name: 'python', type: 'base', platform: true },
    ]);
    expect(await list()).toHaveLength(2);
    expect(await (await harness.request('/v1/snapshots/base')).json()).toMatchObject({
      name: 'base',
      platform: true,
    });
    expect(await errorOf(await remove('base'))).toMatchObject({ status: 403, code: 'forbidden' });
    expect(await errorOf(await harness.request('/v1/snapshots?type=odd'))).toMatchObject({
      status: 400,
      code: 'invalid_request',
    });
  });

  test('snapshots that do not exist', async () => {
    expect(await errorOf(await harness.request('/v1/snapshots/nope'))).toMatchObject({
      status: 404,
      code: 'not_found',
      remedy: 'List the snapshots and images to see which exist.',
    });
    expect(await errorOf(await remove('nope'))).toMatchObject({ status: 404, code: 'not_found' });
    expect(await errorOf(await remove('%2e%2e%2fetc'))).toMatchObject({
      status: 404,
      code: 'not_found',
    });
  });

  test('a deleted name is free, and sandboxes that were created from it keep running', async () => {
    const { id } = await create();
    await made(await snapshot({ sandbox_id: id, name: 'warm' }));
    const child = await harness.create({ template: 'warm' });
    const responses = await Promise.all([remove('warm'), remove('warm')]);
    expect(responses.map(({ status }) => status).toSorted()).toEqual([204, 404]);
    expect(harness.agent.builds.templates.size).toBe(0);
    expect((await harness.get(child.id)).status).toBe('running');
    expect((await harness.send('POST', '/v1/sandboxes', { template: 'warm' })).status).toBe(404);
  });

  test('the host releases a build as soon as it can', async () => {
    const { builds } = harness.agent;
    const { id } = await create();
    await made(await snapshot({ sandbox_id: id, name: 'warm' }));
    builds.deleteError = new TorporError('host_unavailable', 'The agent is unreachable.');
    expect((await remove('warm')).status).toBe(204);
    expect(await list('?type=snapshot')).toEqual([]);
    expect(builds.templates.size).toBe(1);
    builds.deleteError = undefined;
    await until(() => builds.templates.size === 0);
  });
});

describe('builds', () => {
  const verify = async () =>
    (await (await harness.request('/v1/builds?verify=true')).json()) as {
      builds: rest.BuildReport[];
    };
  const collect = async () =>
    (await (
      await harness.request('/v1/builds/collect', { method: 'POST' })
    ).json()) as rest.CollectedBuilds;

  test('are verified, and collected once nothing refers to them', async () => {
    await collect();
    const { id } = await create();
    await made(await snapshot({ sandbox_id: id, name: 'warm' }));
    const [build] = harness.agent.builds.ids;
    harness.agent.builds.faults.set(build ?? '', 'memory.diff is torn.');
    const [report, ...others] = (await verify()).builds;
    expect(others).toEqual([]);
    expect(report).toMatchObject({
      build_id: build,
      size_bytes: BUILD_SIZE_BYTES,
      fault: 'memory.diff is torn.',
    });
    expect(report?.references).toContain(`sandbox ${id}`);
    expect(await collect()).toEqual({ removed_build_ids: [], freed_bytes: 0 });
    await remove('warm');
    await harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' });
    expect(await collect()).toEqual({ removed_build_ids: [build], freed_bytes: BUILD_SIZE_BYTES });
    expect((await verify()).builds).toEqual([]);
  });

  test('are verified only if requested', async () => {
    expect(await errorOf(await harness.request('/v1/builds'))).toMatchObject({
      status: 400,
      code: 'invalid_request',
    });
  });
});
