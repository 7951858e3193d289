import type { GuestClient } from '@torpor/agent/testing';

/** Runs `true` in a guest to its end, past the host agent. */
export async function execInGuest(envd: GuestClient): Promise<void> {
  const request = { process: { cmd: 'true', args: [], envs: {} }, stdin: false };
  for await (const { event } of envd.process.start(request, envd.stream())) {
    if (event?.event.case === 'end') return;
  }
  throw new Error('envd ended the stream before the program.');
}
