import type { GuestClient } from '@torpor/agent/testing';

/** Runs `true` in a guest until it exits, bypassing the host agent. */
export async function execInGuest(envd: GuestClient): Promise<void> {
  const request = { process: { cmd: 'true', args: [], envs: {} }, stdin: false };
  for await (const { event } of envd.process.start(request, envd.stream())) {
    if (event?.event.case === 'end') return;
  }
  throw new Error('envd closed the stream before the program exited.');
}
