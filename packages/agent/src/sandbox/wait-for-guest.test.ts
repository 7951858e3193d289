import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { GuestClient } from '../guest/guest-client.ts';
import { waitForGuest } from './wait-for-guest.ts';

/** A guest that answers what it is asked after `delayMs`, if it is still asked then. */
let server: Server;
let guest: GuestClient;
let delayMs: number;
/** What it has not answered yet. */
let open: Set<ServerResponse>;

beforeEach(async () => {
  open = new Set();
  server = createServer((_, response) => void answer(response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  guest = new GuestClient({
    sandboxId: 'sb0',
    baseUrl: `http://127.0.0.1:${port}`,
    accessToken: '',
  });
});
afterEach(async () => {
  guest.close(new TorporError('host_unavailable', 'The test is over.'));
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

async function answer(response: ServerResponse): Promise<void> {
  const asked = open.add(response);
  response.once('close', () => asked.delete(response));
  // How slow the guest is: the thing that is tested, not a wait for something.
  await delay(delayMs, undefined, { ref: false });
  if (!response.destroyed) response.writeHead(204).end();
}

const vm = {
  exited: new Promise<never>(() => undefined),
  readConsole: async () => Buffer.from('init'),
};
const { signal } = new AbortController();

test('a guest that answers nothing within half a second is waited for all the same', async () => {
  delayMs = 1_500;
  await waitForGuest({ vm, guest, timeoutMs: 60_000, signal });
});

test('no probe is left when the guest has answered', async () => {
  delayMs = 0;
  await waitForGuest({ vm, guest, timeoutMs: 60_000, signal });
  await expect.poll(() => open.size).toBe(0);
});

test('the patience ends with the time that there is', async () => {
  delayMs = 60_000;
  await expect(waitForGuest({ vm, guest, timeoutMs: 200, signal })).rejects.toMatchObject({
    code: 'guest_unreachable',
    message: expect.stringContaining('within 0.2 s'),
  });
  await expect.poll(() => open.size).toBe(0);
});
