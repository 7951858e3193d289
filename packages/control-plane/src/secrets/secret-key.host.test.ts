import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { rest } from '@torpor/protocol';
import { Fleet, type Member, MemoryHost, until } from '@torpor/testkit/control-plane';
import { expect, test } from 'vitest';

const webhookNetworks = ['127.0.0.0/8'];
const newKey = () => randomBytes(32).toString('base64');

const REFUSAL = {
  code: 'host_setup',
  message: 'The database was used with another secret key than that of this server.',
  remedy: expect.stringContaining('--replace-secret-key'),
};

async function createWebhook(member: Member): Promise<string> {
  const url = 'http://127.0.0.1:1/';
  const hook = { name: 'ci', url, event_types: ['host.*'] };
  const response = await member.call('POST', '/webhooks', hook);
  return rest.createdWebhookSchema.parse(await response.json()).id;
}

test('a control plane with another secret key does not start, and harms nothing', async () => {
  await using fleet = await Fleet.open();
  const secretKey = newKey();
  const first = await fleet.join({ secretKey, webhookNetworks });
  const id = await createWebhook(first);
  await expect(fleet.join({ secretKey: newKey() })).rejects.toMatchObject(REFUSAL);
  const second = await fleet.join({ secretKey });
  expect((await second.call('GET', `/webhooks/${id}`)).status).toBe(200);
  // With the right key, the option to replace it changes nothing.
  const third = await fleet.join({ secretKey, replaceSecretKey: true });
  expect((await third.call('GET', `/webhooks/${id}`)).status).toBe(200);
});

test('a data directory without its secret key is refused, and gets no other one', async () => {
  await using fleet = await Fleet.open();
  await fleet.join();
  const dataDir = await mkdtemp(join(tmpdir(), 'torpor-secret-key-'));
  try {
    await expect(fleet.join({ dataDir })).rejects.toMatchObject(REFUSAL);
    expect(await readdir(dataDir)).toEqual([]);
  } finally {
    await rm(dataDir, { recursive: true });
  }
});

test('a lost secret key is replaced: webhooks are deleted, and a host joins again as itself', async () => {
  await using fleet = await Fleet.open();
  const before = await fleet.joinAlone({ secretKey: newKey(), webhookNetworks });
  const id = await createWebhook(before);
  await using host = await MemoryHost.make();
  const created = await before.call('POST', '/hosts', { name: 'rack' });
  await host.start((await created.json()) as rest.CreatedHost);
  const hostId = host.id;
  const isOnline = async (at: Member) => {
    const { status } = (await (await at.call('GET', `/hosts/${hostId}`)).json()) as rest.Host;
    return status === 'online';
  };
  await until(() => isOnline(before));
  const sandbox = await before.create();
  await before.controlPlane.close();

  const after = await fleet.joinAlone({ secretKey: newKey(), replaceSecretKey: true });
  expect(await (await after.call('GET', '/webhooks')).json()).toEqual([]);
  const [deleted] = (await fleet.events(id)).filter(({ kind }) => kind === 'webhook.delete');
  expect(deleted?.metadata).toMatchObject({ reason: 'The secret key was replaced.' });
  await until(async () => !(await isOnline(after)));
  await host.stop();
  const renewed = await after.call('POST', `/hosts/${hostId}/token`);
  await host.start((await renewed.json()) as rest.HostToken);
  expect(host.id).toBe(hostId);
  await until(() => isOnline(after));
  await until(async () => (await after.get(sandbox.id)).status === 'running');
});
