import type { Transport } from '@connectrpc/connect';
import { openTestSite } from '@torpor/testkit/control-plane';
import { expect, test } from 'vitest';
import { ControlPlane } from '../control-plane.ts';

const HOUR_MS = 3_600_000;
/** A timer takes no more. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The transport, and the deadlines of the calls that it carried, by the name of the call. */
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

test('no call in which guests start is given less time than they have', async () => {
  await using site = await openTestSite();
  const { deadlines, recording } = recordingDeadlines(site.agent.transport);
  const options = { ...site.options, hostTransport: recording, guestTimeoutMs: HOUR_MS };
  await using controlPlane = await ControlPlane.start(options);
  const post = async (path: string, body: object): Promise<{ id: string }> => {
    const headers = { 'x-api-key': controlPlane.apiKey, 'content-type': 'application/json' };
    const url = `${controlPlane.url}/v1/sandboxes${path}`;
    const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) });
    expect(answer.status).toBeLessThan(300);
    return (await answer.json()) as { id: string };
  };
  const { id } = await post('', { memory_mb: 128 });
  await post(`/${id}/fork`, { count: 2 });
  await post(`/${id}/pause`, {});
  await post(`/${id}/resume`, {});
  for (const call of ['createSandbox', 'forkSandbox', 'resumeSandbox']) {
    // Another's boot of the same shape may come first.
    expect(deadlines.get(call), call).toBeGreaterThan(2 * HOUR_MS);
    expect(deadlines.get(call), call).toBeLessThan(LONGEST_TIMER_MS);
  }
});
