import { once } from 'node:events';
import { rest } from '@torpor/protocol';
import { type Harness, startHarness } from '@torpor/testkit/control-plane';
import { expect, test } from 'vitest';
import { WebSocket } from 'ws';
import type { ExecAuditLevel } from '../config/index.ts';

/** Starts a program in each way, with a secret among its arguments. */
async function startPrograms(harness: Harness, id: string): Promise<void> {
  const program = { cmd: 'echo', args: ['s3cret'], envs: { TOKEN: 's3cret' } };
  const exec = (body: object) => harness.send('POST', `/v1/sandboxes/${id}/exec`, body);
  expect((await exec({ ...program, user: 'root' })).status).toBe(200);
  expect((await exec({ ...program, background: true })).status).toBe(202);
  for (const path of ['exec/stream', 'pty']) {
    const { url, apiKey } = harness.controlPlane;
    const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/sandboxes/${id}/${path}`, {
      headers: { 'x-api-key': apiKey },
    });
    await once(socket, 'open');
    socket.send(JSON.stringify({ type: 'start', ...program }));
    await once(socket, 'close');
  }
}

async function entriesAt(level: ExecAuditLevel | undefined): Promise<rest.AuditEntry[]> {
  await using harness = await startHarness({ auditExec: level });
  const { id } = await harness.create();
  await startPrograms(harness, id);
  const events = await harness.request(`/v1/events?after=0&follow=false&resource_id=${id}`);
  expect(await events.text()).not.toContain('sandbox.exec');
  const response = await harness.request(`/v1/audit-logs?resource_id=${id}&action=exec`);
  const { items } = rest.auditPageSchema.parse(await response.json());
  expect(
    items.every(({ actor_name, status }) => `${actor_name} ${status}` === 'local success'),
  ).toBe(true);
  return items.toReversed();
}

test('the audit log has who started which program, without its arguments and environment', async () => {
  const entries = await entriesAt(undefined);
  expect(entries.map(({ metadata }) => metadata)).toEqual([
    { kind: 'foreground', cmd: 'echo', user: 'root' },
    { kind: 'background', cmd: 'echo' },
    { kind: 'stream', cmd: 'echo' },
    { kind: 'terminal', cmd: 'echo' },
  ]);
});

test('with its arguments, or nothing, if the operator wants that', async () => {
  const entries = await entriesAt('command');
  expect(entries.map(({ metadata }) => metadata?.args)).toEqual(Array(4).fill('["s3cret"]'));
  expect(JSON.stringify(entries)).not.toContain('TOKEN');
  expect(await entriesAt('off')).toEqual([]);
});

test('what is refused is not recorded', async () => {
  await using harness = await startHarness();
  const response = await harness.send('POST', '/v1/sandboxes/sb000000000000000000000/exec', {
    cmd: 'true',
  });
  expect(response.status).toBe(404);
  const log = await harness.request('/v1/audit-logs?action=exec');
  expect(rest.auditPageSchema.parse(await log.json()).items).toEqual([]);
});
