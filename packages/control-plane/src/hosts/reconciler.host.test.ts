import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { newId, type SandboxState } from '@torpor/protocol';
import { type Harness, startHarness, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

let harness: Harness;

beforeAll(async () => {
  harness = await startHarness({
    reconcilerTiming: {
      unreachableAfterMs: 200,
      reconnectMs: 20,
      listIntervalMs: 100,
      destroyGraceMs: 50,
    },
  });
});

afterAll(async () => {
  await harness[Symbol.asyncDispose]();
});

const becomes = (id: string, state: SandboxState) =>
  until(async () => (await harness.get(id)).status === state);

async function teamId(): Promise<string> {
  const text = await readFile(join(harness.dataDir, 'credentials.json'), 'utf8');
  return (JSON.parse(text) as { team_id: string }).team_id;
}

test('a VMM that died is shown as error with its reason, and affects no other sandbox', async () => {
  const dead = await harness.create({ memory_mb: 128 });
  const other = await harness.create({ memory_mb: 128 });
  harness.agent.report(dead.id, 'error', 'The VMM was killed by signal 9.');
  await becomes(dead.id, 'error');
  expect((await harness.get(dead.id)).reason).toBe('The VMM was killed by signal 9.');
  expect((await harness.get(other.id)).status).toBe('running');
  const response = await harness.send('POST', `/v1/sandboxes/${dead.id}/exec`, { cmd: 'true' });
  expect(response.status).toBe(409);
  expect(await response.text()).toContain('killed by signal 9');
});

test('a sandbox that the agent destroyed for lack of activity is recorded', async () => {
  const { id } = await harness.create({ memory_mb: 128, timeout_sec: 1 });
  harness.agent.report(id, 'stopped');
  await becomes(id, 'stopped');
  expect((await harness.get(id)).ended_at).toBeDefined();
});

test('sandboxes are unreachable while the agent is, and are found again with it', async () => {
  const kept = await harness.create({ memory_mb: 128 });
  const lost = await harness.create({ memory_mb: 128 });
  harness.agent.becomeUnreachable();
  await becomes(kept.id, 'unreachable');
  await becomes(lost.id, 'unreachable');
  const response = await harness.send('POST', `/v1/sandboxes/${kept.id}/exec`, { cmd: 'true' });
  expect(response.status).toBe(503);
  expect(await response.text()).toContain('comes back with its host');
  expect((await harness.send('POST', '/v1/sandboxes', {})).status).toBe(503);
  harness.agent.sandboxes.delete(lost.id);
  harness.agent.becomeReachable();
  await becomes(kept.id, 'running');
  expect((await harness.get(kept.id)).reason).toBeUndefined();
  await becomes(lost.id, 'missing');
  expect((await harness.get(lost.id)).reason).toContain('does not have this sandbox');
});

test('a change that the stream did not report is found by the list', async () => {
  const { id } = await harness.create({ memory_mb: 128 });
  const info = harness.agent.sandboxes.get(id);
  Object.assign(info ?? {}, { status: 'error', reason: 'silent death' });
  await becomes(id, 'error');
});

test('a sandbox of this instance that the database does not know is adopted, not destroyed', async () => {
  const id = newId('sandbox');
  const destroys = harness.agent.count('destroySandbox');
  const labels = { project: 'demo' };
  harness.agent.addSandbox(id, await teamId(), {
    denyInternet: true,
    autoPause: true,
    timeoutSec: 60,
    labels,
  });
  await becomes(id, 'running');
  expect(await harness.get(id)).toMatchObject({
    template: 'base',
    memory_mb: 512,
    vcpus: 1,
    allow_internet: false,
    auto_pause: true,
    timeout_sec: 60,
    metadata: labels,
  });
  expect(harness.agent.count('destroySandbox')).toBe(destroys);
});

test('a sandbox of an unknown team is not adopted', async () => {
  const id = newId('sandbox');
  harness.agent.addSandbox(id, newId('team'));
  await until(() => harness.log().includes('not adopted'));
  expect((await harness.request(`/v1/sandboxes/${id}`)).status).toBe(404);
  expect(harness.agent.sandboxes.has(id)).toBe(true);
});

test('a destroyed sandbox that the host still has is destroyed again', async () => {
  const { id } = await harness.create({ memory_mb: 128 });
  await harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' });
  harness.agent.addSandbox(id, await teamId());
  await until(() => !harness.agent.sandboxes.has(id));
  expect((await harness.get(id)).status).toBe('stopped');
});

test('a slow destroy does not delay other reports', async () => {
  const destroyed = await harness.create({ memory_mb: 128 });
  const other = await harness.create({ memory_mb: 128 });
  await harness.request(`/v1/sandboxes/${destroyed.id}`, { method: 'DELETE' });
  const gate = Promise.withResolvers<void>();
  harness.agent.destroyGate = gate.promise;
  const destroys = harness.agent.count('destroySandbox');
  harness.agent.addSandbox(destroyed.id, await teamId());
  await until(() => harness.agent.count('destroySandbox') > destroys);
  // The list has found the first, and must find this one too.
  Object.assign(harness.agent.sandboxes.get(other.id) ?? {}, { status: 'error', reason: 'marker' });
  await becomes(other.id, 'error');
  expect(harness.agent.count('destroySandbox')).toBe(destroys + 1);
  harness.agent.destroyGate = Promise.resolve();
  gate.resolve();
  await until(() => !harness.agent.sandboxes.has(destroyed.id));
});

test('a late report neither revives a destroyed sandbox nor changes a running one', async () => {
  const { id } = await harness.create({ memory_mb: 128 });
  const info = harness.agent.sandboxes.get(id);
  harness.agent.report(id, 'creating');
  Object.assign(info ?? {}, { status: 'running' });
  const marker = await harness.create({ memory_mb: 128 });
  harness.agent.report(marker.id, 'error', 'marker');
  await becomes(marker.id, 'error');
  expect((await harness.get(id)).status).toBe('running');
});
