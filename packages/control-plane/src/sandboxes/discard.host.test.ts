/** Creates and forks that fail while the host does not remove what they left. */
import type { Transport } from '@connectrpc/connect';
import { TorporError } from '@torpor/protocol';
import { Fleet, type Member, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

let fleet: Fleet;
let member: Member;

/** The agent executes these calls, and its response is lost. */
const lost = new Set<string>();

function losing(transport: Transport): Transport {
  return {
    ...transport,
    unary: async (method, ...call) => {
      const response = await transport.unary(method, ...call);
      if (!lost.has(method.localName)) return response;
      throw new TorporError('timeout', 'The response was lost.').toConnectError();
    },
  };
}

beforeAll(async () => {
  fleet = await Fleet.open();
  member = await fleet.join({
    hostTransport: losing(fleet.agent.transport),
    reconcilerTiming: { listIntervalMs: 50, unreachableAfterMs: 100, reconnectMs: 20 },
  });
});
afterAll(() => fleet[Symbol.asyncDispose]());

const idIn = (text: string) => /sb[a-z0-9]{20}/.exec(text)?.[0] ?? '';

/** The host does not remove the sandbox at first, is unreachable for a while, and then removes it. */
async function expectPendingDestroy(id: string): Promise<void> {
  const { agent } = fleet;
  expect(await member.get(id)).toMatchObject({
    status: 'destroying',
    reason: 'The response was lost.',
  });
  const lists = agent.count('listSandboxes');
  await until(() => agent.count('listSandboxes') > lists + 3);
  expect((await member.get(id)).status).toBe('destroying');
  const removal = await member.call('DELETE', `/sandboxes/${id}`);
  expect(removal.status).toBe(502);
  expect((await member.get(id)).status).toBe('destroying');
  const logged = fleet.log().length;
  agent.becomeUnreachable();
  await until(() => fleet.log().slice(logged).includes('its sandboxes were marked as unreachable'));
  expect((await member.get(id)).status).toBe('destroying');
  agent.destroyError = undefined;
  agent.becomeReachable();
  await until(async () => (await member.get(id)).status === 'stopped');
  expect(agent.sandboxes.has(id)).toBe(false);
}

test('a sandbox whose create failed is destroyed later', async () => {
  lost.add('createSandbox');
  fleet.agent.destroyError = new TorporError('vmm_failed', 'It does not die.');
  const response = await member.call('POST', '/sandboxes', { memory_mb: 128 });
  lost.clear();
  expect(response.status).toBe(504);
  const id = idIn(await response.text());
  await expectPendingDestroy(id);
  expect((await fleet.events(id)).map(({ kind, status }) => `${kind} ${status}`)).toEqual([
    'sandbox.create error',
    'sandbox.destroy error',
    'sandbox.destroy success',
  ]);
});

test('so are the copies of a fork that failed, also those that the host completes later', async () => {
  const source = await member.create();
  lost.add('forkSandbox');
  fleet.agent.destroyError = new TorporError('vmm_failed', 'It does not die.');
  const response = await member.call('POST', `/sandboxes/${source.id}/fork`, { count: 1 });
  lost.clear();
  const id = idIn(await response.text());
  await expectPendingDestroy(id);

  fleet.agent.createError = new TorporError('vmm_failed', 'QEMU exited.');
  const failed = idIn(await (await member.call('POST', '/sandboxes', { memory_mb: 128 })).text());
  fleet.agent.createError = undefined;
  expect((await member.get(failed)).status).toBe('error');
  const { rows } = await fleet.database.query('select team_id from sandboxes limit 1');
  fleet.agent.addSandbox(failed, String(rows[0].team_id));
  fleet.agent.report(failed, 'running');
  await until(async () => (await member.get(failed)).status === 'stopped');
  expect(fleet.agent.sandboxes.has(failed)).toBe(false);
  expect((await member.get(source.id)).status).toBe('running');
});
