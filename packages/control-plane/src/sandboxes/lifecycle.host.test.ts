import { type rest, type SandboxState, TorporError } from '@torpor/protocol';
import { errorOf, type Harness, startHarness, until } from '@torpor/testkit/control-plane';
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
  await harness.clear();
});

const act = (id: string, verb: string, body?: unknown) =>
  body === undefined
    ? harness.request(`/v1/sandboxes/${id}/${verb}`, { method: 'POST' })
    : harness.send('POST', `/v1/sandboxes/${id}/${verb}`, body);
const create = (body = {}) => harness.create({ memory_mb: 128, ...body });
const destroy = (id: string) => harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' });

async function sandboxOf(response: Response): Promise<rest.Sandbox> {
  expect(response.status).toBe(200);
  return (await response.json()) as rest.Sandbox;
}

/** Holds every commit until the returned function is called. */
function holdCommits(): () => void {
  const gate = Promise.withResolvers<void>();
  harness.agent.builds.commitGate = gate.promise;
  return () => {
    harness.agent.builds.commitGate = Promise.resolve();
    gate.resolve();
  };
}

describe('pause and resume', () => {
  test('return the sandbox and the phases', async () => {
    const { id } = await create({ timeout_sec: 60 });
    const paused = await sandboxOf(await act(id, 'pause'));
    expect(paused).toMatchObject({ id, status: 'paused' });
    expect(paused.build_id).toMatch(/^[0-9a-f-]{36}$/);
    expect(paused.timings).toEqual([{ phase: 'memory', milliseconds: 2 }]);
    expect((await harness.get(id)).status).toBe('paused');
    const running = await sandboxOf(await act(id, 'resume'));
    expect(running).toMatchObject({ id, status: 'running', timeout_sec: 60 });
    expect(running.timings).toEqual([{ phase: 'restore', milliseconds: 3 }]);
    expect((await harness.send('POST', `/v1/sandboxes/${id}/exec`, { cmd: 'true' })).status).toBe(
      200,
    );
  });

  test('resume sets a new idle timeout if one is given', async () => {
    const { id } = await create({ timeout_sec: 60 });
    await act(id, 'pause');
    expect(await sandboxOf(await act(id, 'resume', { timeout_sec: 7 }))).toMatchObject({
      timeout_sec: 7,
    });
    expect(harness.agent.sandboxes.get(id)?.timeoutSec).toBe(7);
    await act(id, 'pause');
    expect((await errorOf(await act(id, 'resume', { timeout_sec: -1 }))).code).toBe(
      'invalid_request',
    );
  });

  test('only a running sandbox can be paused, only a paused one resumed', async () => {
    const { id } = await create();
    const resumed = await act(id, 'resume');
    expect(resumed.status).toBe(409);
    expect(await resumed.text()).toContain(`Sandbox ${id} is not paused, it is running.`);
    await act(id, 'pause');
    const calls = harness.agent.count('pauseSandbox');
    const paused = await act(id, 'pause');
    expect(paused.status).toBe(409);
    expect((await errorOf(paused)).code).toBe('invalid_state');
    expect(harness.agent.count('pauseSandbox')).toBe(calls);
    const exec = await harness.send('POST', `/v1/sandboxes/${id}/exec`, { cmd: 'true' });
    expect(exec.status).toBe(409);
  });

  test('what a refusal tells the user to do is true for every client', async () => {
    const run = (id: string) => harness.send('POST', `/v1/sandboxes/${id}/exec`, { cmd: 'true' });
    const { id } = await create();
    await act(id, 'pause');
    expect((await errorOf(await run(id))).remedy).toBe('Resume it.');
    await act(id, 'resume');
    harness.agent.report(id, 'error', 'The page server exited.');
    await until(async () => (await harness.get(id)).status === 'error');
    expect((await errorOf(await run(id))).remedy).toBe('Resume it from its last build.');
    const neverPaused = await create();
    harness.agent.report(neverPaused.id, 'error', 'The VMM was killed by signal 9.');
    await until(async () => (await harness.get(neverPaused.id)).status === 'error');
    expect((await errorOf(await run(neverPaused.id))).remedy).toBe(
      'Read its console, and destroy it.',
    );
    await destroy(id);
    expect((await errorOf(await run(id))).remedy).toBe('Create a new one.');
    expect((await errorOf(await run('sbnosuchsandbox0000000'))).remedy).toBe(
      'List the sandboxes to see which exist.',
    );
  });

  test.each(['pause', 'resume', 'fork'])('%s: unknown and destroyed sandboxes', async (verb) => {
    expect((await act('sbnosuchsandbox0000000', verb)).status).toBe(404);
    const { id } = await create();
    await destroy(id);
    const response = await act(id, verb);
    expect(response.status).toBe(409);
    expect(await response.text()).toContain('has been destroyed');
  });

  test.each([
    ['pause', 'pauseSandbox'],
    ['resume', 'resumeSandbox'],
  ])('of two concurrent %ss exactly one succeeds', async (verb, call) => {
    const { id } = await create();
    if (verb === 'resume') await act(id, 'pause');
    const calls = harness.agent.count(call);
    const responses = await Promise.all([act(id, verb), act(id, verb)]);
    expect(responses.map(({ status }) => status).toSorted()).toEqual([200, 409]);
    expect(harness.agent.count(call)).toBe(calls + 1);
    expect((await harness.get(id)).status).toBe(verb === 'pause' ? 'paused' : 'running');
  });

  test('a concurrent pause and destroy: the sandbox is destroyed, and stays so', async () => {
    const { id } = await create();
    const release = holdCommits();
    const pausing = act(id, 'pause');
    await until(async () => (await harness.get(id)).status === 'pausing');
    const destroying = destroy(id);
    release();
    expect((await pausing).status).toBe(200);
    expect((await destroying).status).toBe(204);
    expect((await harness.get(id)).status).toBe('stopped');
    expect(harness.agent.sandboxes.has(id)).toBe(false);
    expect((await act(id, 'resume')).status).toBe(409);
  });

  test('a concurrent destroy and resume: the sandbox is destroyed, and stays so', async () => {
    const { id } = await create();
    await act(id, 'pause');
    const [destroyed, resumed] = await Promise.all([destroy(id), act(id, 'resume')]);
    expect(destroyed.status).toBe(204);
    expect([200, 409]).toContain(resumed.status);
    expect((await harness.get(id)).status).toBe('stopped');
    expect(harness.agent.sandboxes.has(id)).toBe(false);
  });

  test('a pause continues when the client disconnects', async () => {
    const { id } = await create();
    const release = holdCommits();
    const abort = new AbortController();
    const response = harness.request(`/v1/sandboxes/${id}/pause`, {
      method: 'POST',
      signal: abort.signal,
    });
    await until(async () => (await harness.get(id)).status === 'pausing');
    abort.abort();
    await expect(response).rejects.toThrow();
    release();
    await until(async () => (await harness.get(id)).status === 'paused');
    expect((await act(id, 'resume')).status).toBe(200);
  });

  test('a failed pause leaves it running, a failed resume paused', async () => {
    const { builds } = harness.agent;
    const { id } = await create();
    builds.commitError = new TorporError('disk_full', 'The disk is full.');
    const failed = await act(id, 'pause');
    expect(failed.status).toBe(507);
    expect(await failed.text()).toContain('The disk is full.');
    expect((await harness.get(id)).status).toBe('running');
    builds.commitError = undefined;
    await sandboxOf(await act(id, 'pause'));
    builds.resumeError = new TorporError('build_invalid', 'memory.diff is torn.');
    expect((await act(id, 'resume')).status).toBe(500);
    expect((await harness.get(id)).status).toBe('paused');
    builds.resumeError = undefined;
    await sandboxOf(await act(id, 'resume'));
  });

  test('a paused sandbox has no memory reserved, and is resumed only if there is enough', async () => {
    const first = await create({ memory_mb: 2048 });
    await act(first.id, 'pause');
    const others = [await create({ memory_mb: 2048 }), await create({ memory_mb: 2048 })];
    const refused = await act(first.id, 'resume');
    expect(refused.status).toBe(503);
    expect((await errorOf(refused)).code).toBe('no_hosts_available');
    expect((await harness.get(first.id)).status).toBe('paused');
    await act(others[0]?.id ?? '', 'pause');
    await sandboxOf(await act(first.id, 'resume'));
  });

  test('a sandbox whose VMM exited is resumed from its last build, and only if it has one', async () => {
    const { id } = await create();
    harness.agent.report(id, 'error', 'The VMM was killed by signal 9.');
    await until(async () => (await harness.get(id)).status === 'error');
    const refused = await act(id, 'resume');
    expect(refused.status).toBe(409);
    expect(await refused.text()).toContain('killed by signal 9');
    const other = await create();
    await act(other.id, 'pause');
    await act(other.id, 'resume');
    harness.agent.report(other.id, 'error', 'The page server exited.');
    await until(async () => (await harness.get(other.id)).status === 'error');
    const resumed = await sandboxOf(await act(other.id, 'resume'));
    expect(resumed.status).toBe('running');
    expect(resumed.reason).toBeUndefined();
  });
});

describe('a change that the host makes by itself', () => {
  test('auto_pause is passed on, and a pause when the time to live expires is noticed', async () => {
    const { id, auto_pause } = await create({ auto_pause: true, timeout_sec: 1 });
    expect(auto_pause).toBe(true);
    expect(harness.agent.requests.at(-1)).toMatchObject({ autoPause: true, timeoutSec: 1 });
    await harness.agent.autoPause(id);
    await until(async () => (await harness.get(id)).status === 'paused');
    expect((await harness.get(id)).build_id).toBeDefined();
    await sandboxOf(await act(id, 'resume'));
  });

  test('a destroy waits for a pause that the host began', async () => {
    const { id } = await create();
    const release = holdCommits();
    const paused = harness.agent.autoPause(id);
    await until(async () => (await harness.get(id)).status === 'pausing');
    const looks = harness.agent.count('getSandbox');
    const destroyed = destroy(id);
    await until(() => harness.agent.count('getSandbox') > looks + 1);
    expect(harness.agent.sandboxes.has(id)).toBe(true);
    release();
    await paused;
    expect((await destroyed).status).toBe(204);
    expect((await harness.get(id)).status).toBe('stopped');
  });

  test('a paused sandbox is still paused when the agent comes back', async () => {
    const { id } = await create();
    const { build_id } = await sandboxOf(await act(id, 'pause'));
    harness.agent.becomeUnreachable();
    await until(async () => (await harness.get(id)).status === 'unreachable');
    expect((await act(id, 'resume')).status).toBe(503);
    harness.agent.becomeReachable();
    await until(async () => (await harness.get(id)).status === 'paused');
    expect((await harness.get(id)).build_id).toBe(build_id);
  });

  test.each<SandboxState>(['running', 'pausing', 'snapshotting'])(
    'a late report of an earlier state (%s) does not undo a pause',
    async (late) => {
      const { id } = await create();
      const marker = await create();
      await sandboxOf(await act(id, 'pause'));
      const info = harness.agent.sandboxes.get(id);
      harness.agent.report(id, late);
      Object.assign(info ?? {}, { status: 'paused' });
      harness.agent.report(marker.id, 'error', 'marker');
      await until(async () => (await harness.get(marker.id)).status === 'error');
      expect((await harness.get(id)).status).toBe('paused');
      const changes = harness
        .log()
        .split('\n')
        .filter((line) => line.includes(id) && line.includes('"Sandbox changed"'));
      expect(changes).toEqual([]);
    },
  );

  test('reports during an operation do not interfere with it', async () => {
    const { id } = await create();
    for (let round = 0; round < 10; round++) {
      await sandboxOf(await act(id, 'pause'));
      await sandboxOf(await act(id, 'resume'));
    }
  });
});

describe('fork', () => {
  async function fork(id: string, body: object): Promise<rest.ForkResult> {
    const response = await act(id, 'fork', body);
    expect(response.status).toBe(201);
    return (await response.json()) as rest.ForkResult;
  }

  test('makes copies that are like the source, which keeps running', async () => {
    const source = await create({ metadata: { job: 'x' }, timeout_sec: 30, allow_internet: false });
    const { children, timings } = await fork(source.id, { count: 3 });
    expect(timings).toEqual([{ phase: 'children', milliseconds: 5 }]);
    const ids = new Set(children.map(({ sandbox }) => sandbox?.id));
    expect(ids.size).toBe(3);
    for (const { sandbox } of children) {
      expect(sandbox).toMatchObject({
        status: 'running',
        template: 'base',
        memory_mb: 128,
        timeout_sec: 30,
        allow_internet: false,
        metadata: { job: 'x' },
      });
      expect(await harness.get(sandbox?.id ?? '')).toMatchObject({ status: 'running' });
    }
    await until(async () => (await harness.get(source.id)).status === 'running');
  });

  test('of a paused sandbox, with another timeout', async () => {
    const { id } = await create();
    await act(id, 'pause');
    const { children } = await fork(id, { timeout_sec: 5 });
    expect(children).toEqual([
      { sandbox: expect.objectContaining({ status: 'running', timeout_sec: 5 }) },
    ]);
    expect((await harness.get(id)).status).toBe('paused');
  });

  test('reports for each copy whether it was created', async () => {
    const { id } = await create();
    harness.agent.builds.failingChildren = 1;
    const { children } = await fork(id, { count: 2 });
    expect(children[0]?.sandbox?.status).toBe('running');
    expect(children[1]?.error).toMatchObject({ code: 'vmm_failed' });
    expect(children[1]?.error?.message).toContain('no more room');
    const [failed] = /sb[a-z0-9]{20}/.exec(children[1]?.error?.message ?? '') ?? [''];
    expect(await harness.get(failed)).toMatchObject({
      status: 'error',
      reason: 'The page server has no more room.',
    });
  });

  test('does not reserve more memory than there is', async () => {
    const { id } = await create({ memory_mb: 1024 });
    const { children } = await fork(id, { count: 5 });
    const outcomes = children.map(({ sandbox, error }) => sandbox?.status ?? error?.code);
    expect(outcomes.filter((outcome) => outcome === 'running')).toHaveLength(3);
    expect(outcomes.filter((outcome) => outcome === 'no_hosts_available')).toHaveLength(2);
  });

  test('that cannot be committed leaves no copy', async () => {
    const { id } = await create();
    harness.agent.builds.commitError = new TorporError('disk_full', 'The disk is full.');
    const { children, timings } = await fork(id, { count: 2 });
    expect(children.map(({ error }) => error?.code)).toEqual(['disk_full', 'disk_full']);
    expect(timings).toEqual([]);
    await until(async () => (await harness.get(id)).status === 'running');
    expect(harness.agent.sandboxes.size).toBe(1);
  });

  test.each([{ count: 0 }, { count: 101 }, { count: 1.5 }, { number: 2 }])(
    'refuses %j',
    async (body) => {
      const { id } = await create();
      const calls = harness.agent.count('forkSandbox');
      expect((await errorOf(await act(id, 'fork', body))).code).toBe('invalid_request');
      expect(harness.agent.count('forkSandbox')).toBe(calls);
    },
  );
});
