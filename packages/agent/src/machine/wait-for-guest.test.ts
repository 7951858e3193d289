import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { GuestClient } from '../guest/guest-client.ts';
import { exitReason, waitForGuest } from './wait-for-guest.ts';

/** A guest that responds to a request after `delayMs`, if the request is still open then. */
let server: Server;
let guest: GuestClient;
let delayMs: number;
/** What it has not responded to yet. */
let open: Set<ServerResponse>;

beforeEach(async () => {
  open = new Set();
  server = createServer((_, response) => void respond(response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  guest = new GuestClient({
    sandboxId: 'sb0',
    baseUrl: `http://127.0.0.1:${port}`,
    accessToken: '',
  });
});
afterEach(async () => {
  guest.close(new TorporError('host_unavailable', 'The test has finished.'));
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

async function respond(response: ServerResponse): Promise<void> {
  const asked = open.add(response);
  response.once('close', () => asked.delete(response));
  // The guest's delay is what is tested, not a wait for a condition.
  await delay(delayMs, undefined, { ref: false });
  if (!response.destroyed) response.writeHead(204).end();
}

const vm = {
  exited: new Promise<never>(() => undefined),
  readConsole: async () => Buffer.from('init'),
};
const { signal } = new AbortController();

test('a guest that does not respond within half a second is still waited for', async () => {
  delayMs = 1_500;
  await waitForGuest({ vm, guest, timeoutMs: 60_000, signal });
});

test("a guest that is slower than the first probe's limit is reached by a longer one", async () => {
  // Does not respond to probes that wait less than half a minute; refuses them at once, to save
  // time.
  const slow = { isHealthy: async (timeoutMs: number) => timeoutMs > 30_000 };
  await waitForGuest({ vm, guest: slow, timeoutMs: 600_000, signal });
});

test('no probe is left when the guest has responded', async () => {
  delayMs = 0;
  await waitForGuest({ vm, guest, timeoutMs: 60_000, signal });
  await expect.poll(() => open.size).toBe(0);
});

test('the reason for an exit quotes the errors of the console, and no routine lines', () => {
  const reason = 'QEMU was terminated by SIGKILL.';
  const routine = ['Running Firecracker v1.16.1', 'torpor: [1.2] init', 'listening on port 49983'];
  expect(exitReason({ reason, consoleTail: routine })).toBe(reason);
  const killed = '[  71.3] Out of memory: Killed process 77 (node)';
  const halted = '[  71.9] reboot: Power off not available: System halted instead';
  expect(exitReason({ reason, consoleTail: [...routine, killed, halted] })).toBe(
    `${reason} The console's last errors:\n${killed}`,
  );
});

test('the error for a guest that was never ready has the last lines of its console', async () => {
  delayMs = 60_000;
  const report = {
    reason: 'The guest could not start: the base drive /dev/vda did not appear.',
    consoleTail: [
      'Running Firecracker v1.16.1',
      'torpor: [1.2] init',
      '[ 3.3] reboot: System halted',
    ],
  };
  const exited = { ...vm, exited: Promise.resolve(report) };
  await expect(waitForGuest({ vm: exited, guest, timeoutMs: 60_000, signal })).rejects.toThrow(
    `before the guest was ready: ${report.reason} The console's last lines:\ntorpor: [1.2] init`,
  );
});

test('the limit of a probe does not exceed the remaining time', async () => {
  delayMs = 60_000;
  await expect(waitForGuest({ vm, guest, timeoutMs: 200, signal })).rejects.toMatchObject({
    code: 'guest_unreachable',
    message: expect.stringContaining('within 0.2 s'),
  });
  await expect.poll(() => open.size).toBe(0);
});
