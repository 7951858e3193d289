import 'reflect-metadata';
import { generateKeyPairSync, randomBytes, X509Certificate } from 'node:crypto';
import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { DescMethodStreaming, DescMethodUnary } from '@bufbuild/protobuf';
import { createClient } from '@connectrpc/connect';
import * as x509 from '@peculiar/x509';
import { enrolment, hostAgent, type rest, TorporError } from '@torpor/protocol';
import {
  CONTROL_PLANE_IDENTITY,
  hostIdentity,
  parseJoinToken,
  type TlsCredentials,
  type TlsIdentity,
  TlsTransport,
} from '@torpor/protocol/tls';
import { errorOf, Fleet, type Member, MemoryHost, until } from '@torpor/testkit/control-plane';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { SecretBox } from '../auth/secret-box.ts';
import { openDatabase } from '../database/database.ts';
import { Authority } from './authority.ts';

let fleet: Fleet;
let member: Member;
beforeAll(async () => {
  fleet = await Fleet.open();
  member = await fleet.joinAlone();
});
afterAll(() => fleet[Symbol.asyncDispose]());

const machines: MemoryHost[] = [];
afterEach(async () => {
  for (const machine of machines.splice(0)) await machine[Symbol.asyncDispose]();
  await fleet.database.query(`delete from sandboxes; delete from templates; delete from hosts`);
});

async function machine(): Promise<MemoryHost> {
  const made = await MemoryHost.make();
  machines.push(made);
  return made;
}

async function createHost(at = member, body: object = {}): Promise<rest.CreatedHost> {
  const response = await at.call('POST', '/hosts', { name: 'test', ...body });
  expect(response.status).toBe(201);
  return (await response.json()) as rest.CreatedHost;
}

async function hostOf(id: string, at = member): Promise<rest.Host> {
  return (await (await at.call('GET', `/hosts/${id}`)).json()) as rest.Host;
}

/** A machine that has joined and is online. */
async function joined(at = member): Promise<MemoryHost> {
  const created = await machine();
  await created.start(await createHost(at));
  await until(async () => (await hostOf(created.id, at)).status === 'online');
  return created;
}

/** Calls a TLS server, trusting the authority of a host. */
async function callAs(
  credentials: TlsCredentials | undefined,
  peer: { address: string; authority: string; identity: TlsIdentity },
) {
  using transport = new TlsTransport({ ...peer, credentials: () => credentials });
  return await createClient(hostAgent.HostAgentService, transport)
    .describeHost({}, { timeoutMs: 5_000 })
    .then(
      () => 'served',
      (reason) => TorporError.from(reason).code,
    );
}

/** The codes with which a host refuses every call there is. */
async function callEverything(
  credentials: TlsCredentials | undefined,
  peer: { address: string; authority: string; identity: TlsIdentity },
): Promise<Record<string, string>> {
  using transport = new TlsTransport({ ...peer, credentials: () => credentials });
  const codes: Record<string, string> = {};
  for (const method of hostAgent.HostAgentService.methods) {
    const call = async () => {
      if (method.methodKind === 'unary') {
        return transport.unary(method as DescMethodUnary, undefined, 5_000, undefined, {});
      }
      const streaming = method as DescMethodStreaming;
      const nothing = (async function* () {})();
      const { message } = await transport.stream(streaming, undefined, 5_000, undefined, nothing);
      return Array.fromAsync(message);
    };
    codes[method.name] = await call().then(
      () => 'served',
      (reason) => TorporError.from(reason).code,
    );
  }
  return codes;
}

async function foreignAuthority(): Promise<Authority> {
  const other = await Fleet.open();
  const db = await openDatabase(other.connection, pino({ level: 'silent' }));
  try {
    return await Authority.open(db, new SecretBox(randomBytes(32)));
  } finally {
    await db.destroy();
    await other[Symbol.asyncDispose]();
  }
}

/** A certificate signing request for a new key, in DER. */
async function certificateRequest(namedCurve: 'P-256' | 'P-384'): Promise<Uint8Array> {
  const hash = namedCurve === 'P-256' ? 'SHA-256' : 'SHA-384';
  const signingAlgorithm = { name: 'ECDSA', namedCurve, hash };
  const keys = await crypto.subtle.generateKey(signingAlgorithm, true, ['sign', 'verify']);
  const request = await x509.Pkcs10CertificateRequestGenerator.create({ keys, signingAlgorithm });
  return new Uint8Array(request.rawData);
}

const ownAuthority = async () => {
  const db = await openDatabase(fleet.connection, pino({ level: 'silent' }));
  try {
    return await Authority.open(db, await SecretBox.open(fleet.dataDir, undefined));
  } finally {
    await db.destroy();
  }
};

test('a machine joins with a token, serves sandboxes, and needs no token after a restart', async () => {
  const created = await createHost();
  expect(created.host).toMatchObject({ status: 'pending', type: 'regular', draining: false });
  expect(created.token).toMatch(/^tpj_[0-9a-f]{40}_[0-9a-f]{64}$/);
  const host = await machine();
  await host.start(created);
  expect(host.id).toBe(created.host.id);
  await until(async () => (await hostOf(host.id)).status === 'online');
  expect(await hostOf(host.id)).toMatchObject({
    address: host.address,
    vcpus: 4,
    memory_mb: 4096,
    agent_version: '0.0.0-test',
  });
  const sandbox = await member.create();
  expect(host.agent.sandboxes.has(sandbox.id)).toBe(true);
  const exec = await member.call('POST', `/sandboxes/${sandbox.id}/exec`, {
    cmd: 'echo',
    args: ['over', 'tls'],
  });
  expect(await exec.json()).toMatchObject({ stdout: 'over tls\n', exit_code: 0 });
  await member.call('POST', `/sandboxes/${sandbox.id}/pause`);

  await host.stop();
  await host.start();
  expect(host.id).toBe(created.host.id);
  await until(async () => (await hostOf(host.id)).address === host.address);
  await until(
    async () => (await member.call('POST', `/sandboxes/${sandbox.id}/resume`)).status === 200,
  );
  expect((await member.get(sandbox.id)).status).toBe('running');
  for (const name of await readdir(host.dataDir)) {
    expect((await stat(join(host.dataDir, name))).mode & 0o777, name).toBe(0o600);
  }
});

test('a join whose response was lost is repeated with the same key; another machine cannot use the token', async () => {
  const created = await createHost();
  const host = await machine();
  await host.start(created);
  await host.stop();
  await rm(join(host.dataDir, 'enrolment.json'));
  await host.start(created);
  expect(host.id).toBe(created.host.id);
  const thief = await machine();
  await expect(thief.start(created)).rejects.toMatchObject({ code: 'unauthorized' });
});

test('an expired token is refused, and so is one that another has replaced', async () => {
  const created = await createHost();
  await fleet.database.query(`update host_tokens set expires_at = now()`);
  const host = await machine();
  await expect(host.start(created)).rejects.toMatchObject({ code: 'unauthorized' });
  const other = await member.call('POST', `/hosts/${created.host.id}/token`);
  const replaced = (await other.json()) as rest.HostToken;
  const newest = await member.call('POST', `/hosts/${created.host.id}/token`);
  await expect(host.start(replaced)).rejects.toMatchObject({ code: 'unauthorized' });
  await host.start((await newest.json()) as rest.HostToken);
  expect(host.id).toBe(created.host.id);
  expect(
    (await fleet.events(host.id)).filter(({ metadata }) => metadata.token === 'created'),
  ).toHaveLength(2);
});

test('a server of another authority does not get the token', async () => {
  const created = await createHost();
  const { secret } = parseJoinToken(created.token) ?? {};
  const token = `tpj_${secret}_${'0'.repeat(64)}`;
  const host = await machine();
  await expect(host.start({ ...created, token })).rejects.toMatchObject({
    code: 'unauthorized',
    message: expect.stringContaining('is not the control plane that made the token'),
  });
  expect(await fleet.count('host_tokens where key_hash is null')).toBe(1);
});

test('what is no token, no address, or nowhere is refused with a remedy', async () => {
  const host = await machine();
  await expect(host.start()).rejects.toMatchObject({ code: 'host_setup' });
  const { token, join_url } = await createHost();
  await expect(host.start({ token: 'tpr_0', join_url })).rejects.toMatchObject({
    code: 'invalid_request',
  });
  await expect(host.start({ token, join_url: 'http://127.0.0.1' })).rejects.toMatchObject({
    code: 'invalid_request',
  });
  await expect(host.start({ token, join_url: 'https://127.0.0.1:1' })).rejects.toMatchObject({
    code: 'host_unavailable',
  });
});

test('what is not a request for a key of P-256, signed with it, does not use the token', async () => {
  const { token, join_url } = await createHost();
  const own = await ownAuthority();
  const valid = await certificateRequest('P-256');
  // The last byte is of the signature.
  const forged = Buffer.from(valid);
  forged.writeUInt8(forged.readUInt8(forged.length - 1) ^ 1, forged.length - 1);
  using transport = new TlsTransport({
    address: new URL(join_url).host,
    authority: own.certificate,
    identity: CONTROL_PLANE_IDENTITY,
    credentials: () => undefined,
  });
  const client = createClient(enrolment.EnrolmentService, transport);
  const join = (csr: Uint8Array) =>
    client.join({ token, csr }).then(
      () => 'joined',
      (reason) => TorporError.from(reason).code,
    );
  for (const csr of [
    new Uint8Array(),
    randomBytes(64),
    forged,
    await certificateRequest('P-384'),
  ]) {
    expect(await join(csr)).toBe('invalid_request');
  }
  expect(await fleet.count('host_tokens where key_hash is null')).toBe(1);
  expect(await join(valid)).toBe('joined');
});

test('an address that is none is refused, and keeps no other host from being followed', async () => {
  const host = await machine();
  await host.start(await createHost(), { address: 'nowhere' });
  const other = await joined();
  expect((await member.create()).status).toBe('running');
  expect(other.agent.sandboxes.size).toBe(1);
  expect(await hostOf(host.id)).toMatchObject({ status: 'pending' });
});

test('the authority is made once, and is of use only with its secret key', async () => {
  await using other = await Fleet.open();
  const db = await openDatabase(other.connection, pino({ level: 'silent' }));
  try {
    const secrets = new SecretBox(randomBytes(32));
    const opened = await Promise.all([1, 2, 3].map(() => Authority.open(db, secrets)));
    expect(new Set(opened.map(({ fingerprint }) => fingerprint)).size).toBe(1);
    const { rows } = await other.database.query('select private_key from authority');
    expect(rows).toHaveLength(1);
    expect(rows[0].private_key).toMatch(/^v1\./);
    await expect(Authority.open(db, new SecretBox(randomBytes(32)))).rejects.toMatchObject({
      code: 'host_setup',
      remedy: expect.stringContaining('secret_key'),
    });
  } finally {
    await db.destroy();
  }
});

test('an agent serves control planes of its authority only', async () => {
  const host = await joined();
  const other = await joined();
  const { authority } = await host.credentials();
  const peer = { address: host.address, authority, identity: hostIdentity(host.id) };
  const own = await ownAuthority();
  expect(await callAs(await own.issueControlPlane(60_000), peer)).toBe('served');
  const calls = host.agent.count('describeHost');
  // The certificate of another host, its own, none, an expired one, and one of another authority.
  expect(await callAs(await other.credentials(), peer)).toBe('host_unavailable');
  expect(await callAs(await host.credentials(), peer)).toBe('host_unavailable');
  expect(await callAs(undefined, peer)).toBe('host_unavailable');
  expect(await callAs(await own.issueControlPlane(-1_000), peer)).toBe('host_unavailable');
  const foreign = await foreignAuthority();
  expect(await callAs(await foreign.issueControlPlane(60_000), peer)).toBe('host_unavailable');
  for (const credentials of [await other.credentials(), undefined]) {
    const codes = await callEverything(credentials, peer);
    expect(Object.keys(codes)).toHaveLength(hostAgent.HostAgentService.methods.length);
    expect(new Set(Object.values(codes))).toEqual(new Set(['host_unavailable']));
  }
  expect(host.agent.count('describeHost')).toBe(calls);
});

test('a control plane accepts a host only as itself', async () => {
  const host = await joined();
  const other = await joined();
  const own = await ownAuthority();
  const credentials = await own.issueControlPlane(60_000);
  const peer = { address: other.address, authority: own.certificate };
  expect(await callAs(credentials, { ...peer, identity: hostIdentity(other.id) })).toBe('served');
  expect(await callAs(credentials, { ...peer, identity: hostIdentity(host.id) })).toBe(
    'host_unavailable',
  );
  const foreign = await foreignAuthority();
  const mistrusting = { ...peer, authority: foreign.certificate };
  expect(await callAs(credentials, { ...mistrusting, identity: hostIdentity(other.id) })).toBe(
    'host_unavailable',
  );
});

test('heartbeats and renewals need the certificate of a host', async () => {
  const { join_url } = await createHost();
  const own = await ownAuthority();
  const foreign = await foreignAuthority();
  const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey;
  const der = key.export({ type: 'spki', format: 'der' });
  for (const credentials of [
    undefined,
    await own.issueControlPlane(60_000),
    await foreign.issueControlPlane(60_000),
  ]) {
    using transport = new TlsTransport({
      address: new URL(join_url).host,
      authority: own.certificate,
      identity: CONTROL_PLANE_IDENTITY,
      credentials: () => credentials,
    });
    const client = createClient(enrolment.EnrolmentService, transport);
    for (const call of [client.heartbeat({ port: 1 }), client.renew({ csr: der })]) {
      const error = await call.then(() => undefined, TorporError.from);
      expect(error?.code).toBe('unauthorized');
    }
  }
});

test('certificates are renewed before they expire, without an interruption', async () => {
  const brief = await fleet.joinAlone({
    hostTiming: { hostCertificateMs: 6_000, ownCertificateMs: 6_000 },
  });
  const host = await joined(brief);
  const sandbox = await brief.create();
  const long = brief.call('POST', `/sandboxes/${sandbox.id}/exec`, {
    cmd: 'sh',
    args: ['-c', 'sleep 9; echo done'],
  });
  const serials = new Set<string>();
  await until(async () => {
    serials.add(new X509Certificate((await host.credentials()).certificate).serialNumber);
    expect((await brief.get(sandbox.id)).status).toBe('running');
    return serials.size >= 3;
  });
  expect(await (await long).json()).toMatchObject({ stdout: 'done\n' });
  expect((await brief.create()).status).toBe('running');
  expect((await hostOf(host.id)).status).toBe('online');
  await brief.controlPlane.close();
});

test('a machine that was off until its certificate had expired renews it', async () => {
  const brief = await fleet.joinAlone({ hostTiming: { hostCertificateMs: 1_000 } });
  const host = await joined(brief);
  await host.stop();
  const { certificate } = await host.credentials();
  const expired = new X509Certificate(certificate).validToDate;
  await until(() => Date.now() > expired.getTime() + 1_000);
  await host.start();
  await until(async () => (await host.credentials()).certificate !== certificate);
  await until(async () => (await hostOf(host.id)).address === host.address);
  await brief.controlPlane.close();
});

test('a deleted host is told so, and can do nothing with its certificate', async () => {
  const host = await joined();
  const { id } = host;
  const credentials = await host.credentials();
  expect((await member.call('DELETE', `/hosts/${id}`)).status).toBe(204);
  await until(() => host.deletions === 1);
  const { join_url } = await createHost();
  using transport = new TlsTransport({
    address: new URL(join_url).host,
    authority: credentials.authority,
    identity: CONTROL_PLANE_IDENTITY,
    credentials: () => credentials,
  });
  const client = createClient(enrolment.EnrolmentService, transport);
  const error = await client.heartbeat({ port: 1 }).then(() => undefined, TorporError.from);
  expect(error?.code).toBe('not_found');
  expect((await member.call('GET', `/hosts/${id}`)).status).toBe(404);
  expect(await errorOf(await member.call('POST', '/sandboxes', {}))).toMatchObject({
    status: 503,
    code: 'no_hosts_available',
  });
  // Another token makes the machine a host again.
  await host.stop();
  await host.start(await createHost());
  expect(host.id).not.toBe(id);
});
