import { createServer, type RequestListener, type Server } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net';
import { TorporError } from '@torpor/protocol';
import { afterEach, describe, expect, test } from 'vitest';
import { exec } from './exec.ts';
import { GuestClient } from './guest-client.ts';
import { listProcesses } from './processes.ts';
import { failOnSilence } from './stream-watch.ts';

const cleanup = new Set<() => Promise<void>>();
afterEach(async () => {
  for (const action of cleanup) await action();
  cleanup.clear();
});

async function listen(server: Server | ReturnType<typeof createTcpServer>): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function guestAt(baseUrl: string): Promise<GuestClient> {
  const guest = new GuestClient({ sandboxId: 'sb1', baseUrl, accessToken: 'token' });
  cleanup.add(async () => guest.close(new TorporError('conflict', 'The test has finished.')));
  return guest;
}

async function guestResponding(listener: RequestListener): Promise<GuestClient> {
  const server = createServer(listener);
  const url = await listen(server);
  cleanup.add(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  return guestAt(url);
}

/** A guest that accepts connections and never responds. */
async function hanging(): Promise<GuestClient> {
  const sockets = new Set<Socket>();
  const server = createTcpServer((socket) => sockets.add(socket.on('error', () => undefined)));
  const url = await listen(server);
  cleanup.add(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  return guestAt(url);
}

async function read(guest: GuestClient): Promise<void> {
  for await (const _ of guest.readFile({ path: '/x' })) break;
}

describe('a guest that refuses', () => {
  const refusing = (status: number, message: string) =>
    guestResponding((_request, response) => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ code: status, message }));
    });

  test('its identity is reported with the step that failed, and a remedy', async () => {
    const guest = await refusing(500, 'init failed at machine-id: EROFS');
    await expect(guest.init({}, { timeoutMs: 5_000 })).rejects.toMatchObject({
      code: 'init_failed',
      message:
        'The guest could not be initialised as sandbox sb1: Init failed at machine-id: EROFS.',
      remedy: expect.stringContaining('Start it again'),
    });
  });

  test('to start a program without its default account is reported as such', async () => {
    const guest = await refusing(401, "invalid username: 'user'");
    await expect(read(guest)).rejects.toMatchObject({
      code: 'invalid_request',
      message: 'There is no user "user" in the sandbox.',
      remedy: expect.stringContaining('root'),
    });
  });
});

describe('a guest that cannot be reached', () => {
  test('is an error of every kind of call', async () => {
    const server = createServer();
    const url = await listen(server);
    await new Promise((resolve) => server.close(resolve));
    const guest = await guestAt(url);
    const unreachable = { code: 'guest_unreachable', message: expect.stringMatching(/sb1/) };
    await expect(read(guest)).rejects.toMatchObject(unreachable);
    await expect(guest.init({}, { timeoutMs: 1000 })).rejects.toMatchObject(unreachable);
    await expect(listProcesses(guest, {})).rejects.toMatchObject(unreachable);
    const program = { cmd: 'true', args: [], envs: {} };
    const limits = { timeoutMs: undefined, maxOutputBytes: 1 };
    await expect(exec(guest, program, limits)).rejects.toMatchObject(unreachable);
    expect(await guest.isHealthy(1000)).toBe(false);
  });

  test('that hangs does not block a program with a time limit', async () => {
    const guest = await hanging();
    const program = { cmd: 'true', args: [], envs: {} };
    const result = await exec(guest, program, { timeoutMs: 50, maxOutputBytes: 1 });
    expect(result).toMatchObject({ timedOut: true, exitCode: -1 });
  });

  test('that is not initialised in time is an error that names the setting', async () => {
    const guest = await hanging();
    await expect(guest.init({}, { timeoutMs: 50 })).rejects.toMatchObject({
      code: 'guest_unreachable',
      message: 'The guest of sandbox sb1 did not complete its initialisation within 0.05 s.',
      remedy: expect.stringContaining('--guest-timeout'),
    });
  });

  test('that is silent fails a stream; a slow consumer does not', async () => {
    async function* slow() {
      yield 1;
      await new Promise<never>(() => undefined);
    }
    const abort = new AbortController();
    const silence = new Promise((_, reject) =>
      abort.signal.addEventListener('abort', () => reject(abort.signal.reason)),
    );
    const consumed = (async () => {
      for await (const _ of failOnSilence(slow(), 20, abort)) {
        // Longer than the time limit for silence: it must have no effect.
        await new Promise((resolve) => setTimeout(resolve, 60));
        expect(abort.signal.aborted).toBe(false);
      }
    })();
    await expect(Promise.race([consumed, silence])).rejects.toMatchObject({
      code: 'guest_unreachable',
    });
  });
});

test('when the sandbox is lost, every pending call fails with the reason', async () => {
  const guest = await hanging();
  const program = { cmd: 'sleep', args: ['9'], envs: {} };
  const calls = [
    read(guest),
    guest.init({}, { timeoutMs: 60_000 }),
    listProcesses(guest, {}),
    exec(guest, program, { timeoutMs: undefined, maxOutputBytes: 1 }),
  ];
  guest.close(new TorporError('vmm_failed', 'QEMU was terminated by SIGKILL.'));
  for (const outcome of await Promise.allSettled(calls)) {
    expect(outcome).toMatchObject({
      status: 'rejected',
      reason: { code: 'vmm_failed', message: 'QEMU was terminated by SIGKILL.' },
    });
  }
  await expect(read(guest)).rejects.toMatchObject({ code: 'vmm_failed' });
});

test.each([
  [400, 'invalid_request'],
  [401, 'guest_unreachable'],
  [404, 'not_found'],
  [503, 'sandbox_exhausted'],
  [507, 'sandbox_disk_full'],
  [500, 'guest_failed'],
])('status %i of the file service is the error %s, with its message', async (status, code) => {
  const guest = await guestResponding((request, response) => {
    request.resume();
    response.writeHead(status).end(JSON.stringify({ code: status, message: 'so it is' }));
  });
  const error = await read(guest).catch((reason: unknown) => reason);
  expect(error).toMatchObject({ code });
  if (code !== 'guest_unreachable') expect(error).toMatchObject({ message: 'So it is.' });
});

test('a user that does not exist in the guest is an error of the caller', async () => {
  const guest = await guestResponding((request, response) => {
    request.resume();
    response.writeHead(401).end(JSON.stringify({ code: 401, message: "invalid username: 'x'" }));
  });
  const reading = (async () => {
    for await (const _ of guest.readFile({ path: '/x', user: 'x' })) break;
  })();
  await expect(reading).rejects.toMatchObject({ code: 'invalid_request' });
});

test('an upload that the guest refuses is stopped', async () => {
  const guest = await guestResponding((_, response) => {
    response.writeHead(507, { connection: 'close' }).end('{"code":507,"message":"no space left"}');
  });
  let sent = 0;
  async function* endless() {
    for (;;) {
      sent += 65_536;
      yield Buffer.alloc(65_536);
    }
  }
  await expect(guest.writeFile({ path: '/x' }, endless())).rejects.toMatchObject({
    code: 'sandbox_disk_full',
    message: 'No space left.',
  });
  expect(sent).toBeLessThan(100 * 1024 * 1024);
});
