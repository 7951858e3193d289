import type { Transport } from '@connectrpc/connect';
import { openTestSite } from '@torpor/testkit/control-plane';
import { expect, test } from 'vitest';
import { ControlPlane } from '../control-plane.ts';

const HOUR_MS = 3_600_000;
/** The limit of timers. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The transport, and the deadlines of the calls made through it, by the name of the call. */
function recordingDeadlines(transport: Transport) {
  const deadlines = new Map<string, number | undefined>();
  const recording: Transport = {
    unary: (method, signal, timeoutMs, ...rest) => {
      deadlines.set(method.localName, timeoutMs);
      return transport.unary(method, signal, timeoutMs, ...rest);
    },
    stream: (...args) => transport.stream(...args),
  };
  return { deadlines, recording };
}

test('a call that starts guests has a deadline after theirs', async () => {
  await using site = await openTestSite();
  const { deadlines, recording } = recordingDeadlines(site.agent.transport);
  const options = { ...site.options, hostTransport: recording, guestTimeoutMs: HOUR_MS };
  await using controlPlane = await ControlPlane.start(options);
  const post = async (path: string, body: object): Promise<{ id: string }> => {
    const headers = { 'x-api-key': controlPlane.apiKey, 'content-type': 'application/json' };
    const url = `${controlPlane.url}/v1/sandboxes${path}`;
    const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) });
    expect(response.status).toBeLessThan(300);
    return (await response.json()) as { id: string };
  };
  const { id } = await post('', { memory_mb: 128 });
  await post(`/${id}/fork`, { count: 2 });
  await post(`/${id}/pause`, {});
  await post(`/${id}/resume`, {});
  for (const call of ['createSandbox', 'forkSandbox', 'resumeSandbox']) {
    // The boot of another sandbox of the same shape may come first.
    expect(deadlines.get(call), call).toBeGreaterThan(2 * HOUR_MS);
    expect(deadlines.get(call), call).toBeLessThan(LONGEST_TIMER_MS);
  }
});
