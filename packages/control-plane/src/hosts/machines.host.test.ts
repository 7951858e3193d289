import 'reflect-metadata';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { cp, readFile } from 'node:fs/promises';
import { connect as connectHttp2 } from 'node:http2';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { type Client, createClient } from '@connectrpc/connect';
import * as x509 from '@peculiar/x509';
import { enrolment, type rest, TorporError } from '@torpor/protocol';
import {
  CONTROL_PLANE_IDENTITY,
  type TlsCredentials,
  TlsServer,
  TlsTransport,
} from '@torpor/protocol/tls';
import { Fleet, type Member, MemoryHost, until } from '@torpor/testkit/control-plane';
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

const ownAuthority = async () => {
  const db = await openDatabase(fleet.connection, pino({ level: 'silent' }));
  try {
    return await Authority.open(db, await SecretBox.open(fleet.dataDir, undefined));
  } finally {
    await db.destroy();
  }
};

/** A certificate signing request for a new key, in DER. */
async function newRequest(): Promise<Uint8Array> {
  const signingAlgorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await crypto.subtle.generateKey(signingAlgorithm, true, ['sign', 'verify']);
  const request = await x509.Pkcs10CertificateRequestGenerator.create({ keys, signingAlgorithm });
  return new Uint8Array(request.rawData);
}

/** A client of the enrolment service with the certificate of a host. */
async function enrolmentCall<T>(
  url: string,
  credentials: TlsCredentials & { readonly authority: string },
  call: (client: Client<typeof enrolment.EnrolmentService>) => Promise<T>,
): Promise<string> {
  using transport = new TlsTransport({
    address: new URL(url).host,
    authority: credentials.authority,
    identity: CONTROL_PLANE_IDENTITY,
    credentials: () => credentials,
  });
  return await call(createClient(enrolment.EnrolmentService, transport)).then(
    () => 'accepted',
    (reason) => TorporError.from(reason).code,
  );
}

test('a copy of a data directory does not take the place of the machine that reports', async () => {
  const host = await joined();
  const { id, address } = host;
  const sandbox = await member.create();
  const copy = await machine();
  await cp(host.dataDir, copy.dataDir, { recursive: true });
  const refused = Promise.withResolvers<string>();
  const logger = pino({ level: 'warn' }, { write: (text: string) => refused.resolve(text) });
  await copy.start(undefined, { logger });
  expect(await refused.promise).toContain('Another machine reports as the host');
  expect(await hostOf(id)).toMatchObject({ status: 'online', address });
  expect((await member.get(sandbox.id)).status).toBe('running');
  // The original may be restarted, and the copy takes its place when it is silent.
  await host.stop();
  await host.start();
  await until(async () => (await hostOf(id)).address === host.address);
  await host.stop();
  await until(async () => (await hostOf(id)).address === copy.address);
});

test('a machine that joins again as a host ends the certificates that the host had', async () => {
  const host = await joined();
  const { id } = host;
  const stolen = await host.credentials();
  const issuedAt = new X509Certificate(stolen.certificate).validFromDate.getTime() + 300_000;
  await until(() => Date.now() > issuedAt + 1_000);
  const token = (await (await member.call('POST', `/hosts/${id}/token`)).json()) as rest.HostToken;
  const other = await machine();
  await other.start(token);
  expect(other.id).toBe(id);
  await until(async () => (await hostOf(id)).address === other.address);
  const csr = await newRequest();
  const url = token.join_url;
  const heartbeat = { port: 1 };
  expect(await enrolmentCall(url, stolen, (client) => client.heartbeat(heartbeat))).toBe(
    'unauthorized',
  );
  expect(await enrolmentCall(url, stolen, (client) => client.renew({ csr }))).toBe('unauthorized');
  const current = await other.credentials();
  expect(await enrolmentCall(url, current, (client) => client.renew({ csr }))).toBe('accepted');
  expect((await hostOf(id)).address).toBe(other.address);
});

test('a host follows its control plane to another address, and nothing else there', async () => {
  const host = await joined();
  const { id } = host;
  const other = await fleet.joinAlone();
  const impostor = await Fleet.open();
  const elsewhere = await impostor.joinAlone();
  const url = (at: Member) => String(at.controlPlane.agentUrl);
  await host.stop();
  await expect(host.start({ join_url: url(elsewhere) })).rejects.toMatchObject({
    code: 'unauthorized',
  });
  await impostor[Symbol.asyncDispose]();
  await host.start({ join_url: url(other) });
  await until(async () => (await hostOf(id)).address === host.address);
  await host.stop();
  expect(JSON.parse(await readFile(join(host.dataDir, 'enrolment.json'), 'utf8')).url).toBe(
    url(other),
  );
  await host.start();
  expect(host.id).toBe(id);
  await other.controlPlane.close();
});

test('a machine that is a host becomes another one only when the first is deleted', async () => {
  const host = await joined();
  const { id } = host;
  await host.stop();
  const created = await createHost();
  await expect(host.start(created)).rejects.toMatchObject({
    code: 'conflict',
    message: expect.stringContaining(id),
  });
  await host.start();
  expect(host.id).toBe(id);
  await host.stop();
  expect((await member.call('DELETE', `/hosts/${id}`)).status).toBe(204);
  await host.start(created);
  expect(host.id).toBe(created.host.id);
});

test('who has no certificate is not kept connected', async () => {
  const own = await ownAuthority();
  const routes = () => undefined;
  const credentials = await own.issueControlPlane(60_000);
  const options = { port: 0, authority: own.certificate, credentials, routes };
  await using server = await TlsServer.listen({ ...options, admits: () => true, strangerMs: 50 });
  const connection = (own?: TlsCredentials) =>
    connect({
      host: '127.0.0.1',
      port: server.port,
      ALPNProtocols: ['h2'],
      rejectUnauthorized: false,
      ...(own && { cert: own.certificate, key: own.privateKey }),
    });
  const known = connection(credentials);
  known.resume();
  const strangers = Array.from({ length: 100 }, () => connection());
  await Promise.all(
    strangers.map((socket) => {
      socket.on('error', () => undefined).resume();
      return once(socket, 'close');
    }),
  );
  expect(known.readyState).toBe('open');
  known.destroy();
});

test('a request with an authority that is none is refused, and ends nothing', async () => {
  const { token, join_url } = await createHost();
  const session = connectHttp2(join_url, { rejectUnauthorized: false });
  const stream = session.request({
    ':method': 'POST',
    ':authority': '::1:1',
    ':path': '/hostagent.v1.EnrolmentService/Join',
  });
  const [response] = await once(stream, 'response');
  expect(response[':status']).toBe(400);
  session.destroy();
  const host = await machine();
  await host.start({ token, join_url });
});

test('control plane and agent reach each other over IPv6', async () => {
  const six = await fleet.joinAlone({ agents: { host: '::1', port: 0, url: undefined } });
  const { token, host: created } = await createHost(six);
  const join_url = String(six.controlPlane.agentUrl);
  const host = await machine();
  await host.start({ token, join_url }, { host: '::1' });
  await until(async () => (await hostOf(created.id, six)).status === 'online');
  expect((await hostOf(created.id, six)).address).toMatch(/^\[::1\]:\d+$/);
  await until(async () => (await six.call('POST', '/sandboxes', {})).status === 201);
});

test('a host may report any capacity, and none that cannot be stored or shown', async () => {
  const host = await machine();
  const capacity = {
    arch: 'x64\0\u001b[31m',
    vcpus: 2 ** 32 - 1,
    memoryMb: 2n ** 64n - 1n,
    diskMb: 2n ** 64n - 1n,
    freeDiskMb: 0n,
    builds: 2 ** 32 - 1,
    agentVersion: '\u202e'.repeat(1000),
  };
  const image = {
    name: '\u001b]0;debian\u0007',
    sizeBytes: 2n ** 63n - 1n,
    createdAtUnix: 2n ** 63n - 1n,
  };
  const describe = async () => ({
    capacity,
    images: [image],
    maxVcpus: 1,
    maxMemoryMb: -(2n ** 63n),
  });
  await host.start(await createHost(), { describe });
  await until(async () => (await hostOf(host.id)).status === 'online');
  expect(await hostOf(host.id)).toMatchObject({
    arch: 'x64??[31m',
    vcpus: 2 ** 31 - 1,
    memory_mb: 2 ** 31 - 1,
    disk_mb: 2 ** 31 - 1,
    free_disk_mb: 0,
    builds: 2 ** 31 - 1,
    agent_version: '?'.repeat(255),
  });
});
