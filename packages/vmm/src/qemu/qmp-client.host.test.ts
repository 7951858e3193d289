import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TorporError } from '@torpor/protocol';
import { expect, onTestFinished, test, vi } from 'vitest';
import { findQemu } from './find-qemu.ts';
import { QmpClient, QmpError, type QmpEvent } from './qmp-client.ts';

const TIMEOUT_MS = 50_000;

async function socketPath(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-qmp-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  return join(directory, 'qmp.sock');
}

/** A real QEMU without a machine: it starts quickly and implements the whole protocol. */
async function realQemu(): Promise<string> {
  const path = await socketPath();
  const { path: program } = await findQemu(process.env.TORPOR_QEMU);
  const control = `unix:${path},server=on,wait=off`;
  const child = spawn(program, ['-machine', 'none', '-display', 'none', '-qmp', control], {
    stdio: 'ignore',
  });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  return path;
}

/** A peer that sends QEMU's greeting and then does what the test needs. */
async function peer(onLine: (line: string, socket: Socket) => void, greeting = '{"QMP":{}}\r\n') {
  const path = await socketPath();
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.write(greeting);
    socket.on('data', (chunk) => {
      for (const line of chunk.toString().split('\r\n').filter(Boolean)) onLine(line, socket);
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  onTestFinished(() => {
    server.close();
  });
  return path;
}

function respond(line: string, socket: Socket): void {
  socket.write(`${JSON.stringify({ return: {}, id: JSON.parse(line).id })}\r\n`);
}

test('QEMU responds to commands, to overlapping ones each with its own response', async () => {
  const client = await QmpClient.connect(await realQemu(), { timeoutMs: TIMEOUT_MS });
  onTestFinished(() => client.close());
  const [status, name, version] = await Promise.all([
    client.execute('query-status'),
    client.execute('query-name'),
    client.execute('query-version'),
  ]);
  expect(status).toMatchObject({ running: true });
  expect(name).toEqual({});
  expect(version).toMatchObject({ qemu: { major: expect.any(Number) } });
});

test('a refused command rejects with the error class and message of QEMU', async () => {
  const client = await QmpClient.connect(await realQemu(), { timeoutMs: TIMEOUT_MS });
  onTestFinished(() => client.close());
  const refused = await client.execute('no-such-command').catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(QmpError);
  expect(refused).toMatchObject({ command: 'no-such-command', errorClass: 'CommandNotFound' });
  expect(await client.execute('query-status')).toMatchObject({ running: true });
});

test('events reach the listeners, and the connection closes when QEMU exits', async () => {
  const client = await QmpClient.connect(await realQemu(), { timeoutMs: TIMEOUT_MS });
  const events: QmpEvent[] = [];
  const stop = client.onEvent((event) => events.push(event));
  await client.execute('stop');
  stop();
  await client.execute('cont');
  client.onEvent((event) => events.push(event));
  await client.execute('quit');
  await client.closed;
  expect(events.map(({ event }) => event)).toEqual(['STOP', 'SHUTDOWN']);
  expect(events[1]?.data).toMatchObject({ reason: 'host-qmp-quit' });
  await expect(client.execute('query-status')).rejects.toMatchObject({ code: 'vmm_failed' });
});

test('a pending command is rejected when the connection closes', async () => {
  const path = await peer((line, socket) => {
    if (line.includes('qmp_capabilities')) respond(line, socket);
    else socket.destroy();
  });
  const client = await QmpClient.connect(path, { timeoutMs: TIMEOUT_MS });
  await expect(client.execute('stop')).rejects.toBeInstanceOf(TorporError);
});

test('a command without a response is rejected after the time limit, and its late response is ignored', async () => {
  let hang: (() => void) | undefined;
  const path = await peer((line, socket) => {
    if (line.includes('"slow"')) hang = () => respond(line, socket);
    else respond(line, socket);
  });
  const client = await QmpClient.connect(path, { timeoutMs: TIMEOUT_MS });
  onTestFinished(() => client.close());
  await expect(client.execute('slow', {}, 30)).rejects.toThrow(
    'did not respond to slow within 30 ms',
  );
  await vi.waitFor(() => expect(hang).toBeDefined());
  hang?.();
  expect(await client.execute('next')).toEqual({});
});

test.for([
  ['no greeting', ''],
  ['what is not JSON', 'hello\r\n'],
  ['an endless line', 'x'.repeat(2 * 1024 * 1024)],
])('the connection to a peer that sends %s is closed', async ([, greeting]) => {
  const path = await peer(() => undefined, greeting);
  const connecting = QmpClient.connect(path, { timeoutMs: 500 });
  await expect(connecting).rejects.toMatchObject({ code: 'vmm_failed' });
});

test('connecting fails after the time limit, or sooner with the reason that the caller gives', async () => {
  const path = await socketPath();
  const connecting = QmpClient.connect(path, { timeoutMs: 50 });
  await expect(connecting).rejects.toMatchObject({ code: 'vmm_failed' });
  const reason = new TorporError('vmm_failed', 'It has exited.');
  const givenUp = QmpClient.connect(path, { timeoutMs: TIMEOUT_MS, givenUp: () => reason });
  await expect(givenUp).rejects.toBe(reason);
});
