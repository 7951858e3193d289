import { setTimeout as sleep } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import { type ExitReport, guestErrors, type MicroVm, withoutRoutine } from '@torpor/vmm';
import type { GuestClient } from '../guest/guest-client.ts';
import { GUEST_TIMEOUT_REMEDY } from '../guest/guest-errors.ts';

/** A probe of a guest without a network yet gets no response; a short one finds a new daemon sooner. */
const PROBE_TIMEOUT_MS = 500;
/**
 * A guest on a loaded host responds to none of those in time. So once the first has failed, a
 * longer probe runs beside the others, each waiting longer than the one before: for any guest,
 * one of them waits long enough.
 */
const LONG_PROBE_TIMEOUT_MS = 5_000;
const TIMEOUT_GROWTH = 2;
const PROBE_INTERVAL_MS = 30;
const CONSOLE_TAIL_BYTES = 2048;
const CONSOLE_TAIL_LINES = 12;

export interface GuestWait {
  readonly vm: Pick<MicroVm, 'exited' | 'readConsole'>;
  readonly guest: Pick<GuestClient, 'isHealthy'>;
  readonly timeoutMs: number;
  /** Cancels the wait, with the signal's reason. */
  readonly signal: AbortSignal;
}

/**
 * Waits until envd responds. Throws `vmm_failed` at once when the VMM exits, and
 * `guest_unreachable` when the time is up; both with the console's last lines.
 */
export async function waitForGuest(wait: GuestWait): Promise<void> {
  const over = new AbortController();
  const exited = wait.vm.exited.then((report) => {
    throw new TorporError(
      'vmm_failed',
      withConsole(
        `The VMM exited before the guest was ready: ${report.reason}`,
        report.consoleTail,
      ),
    );
  });
  const deadline = performance.now() + wait.timeoutMs;
  const ask = (timeoutMs: number, growth: number) =>
    poll(wait, { timeoutMs, growth, deadline, over: over.signal });
  const longProbes = sleep(PROBE_TIMEOUT_MS, undefined, { signal: over.signal }).then(() =>
    ask(LONG_PROBE_TIMEOUT_MS, TIMEOUT_GROWTH),
  );
  const outcomes = [exited, ask(PROBE_TIMEOUT_MS, 1), longProbes];
  try {
    await Promise.race(outcomes);
  } finally {
    over.abort();
    for (const outcome of outcomes) outcome.catch(() => undefined);
  }
}

/**
 * Why the VMM of a guest that was ready exited. The guest's console is quoted only if it
 * reports a failure: routine output is no reason for an exit.
 */
export function exitReason({ reason, consoleTail }: ExitReport): string {
  const errors = guestErrors(withoutRoutine(consoleTail));
  if (errors.length === 0) return reason;
  return `${reason} The console's last errors:\n${errors.slice(-CONSOLE_TAIL_LINES).join('\n')}`;
}

interface Polling {
  /** How long the first probe waits for a response; each later one `growth` times as long. */
  readonly timeoutMs: number;
  readonly growth: number;
  /** In terms of performance.now(). */
  readonly deadline: number;
  readonly over: AbortSignal;
}

async function poll(wait: GuestWait, { growth, deadline, over, ...polling }: Polling) {
  for (let { timeoutMs } = polling; !over.aborted; timeoutMs *= growth) {
    wait.signal.throwIfAborted();
    const leftMs = Math.max(1, Math.ceil(deadline - performance.now()));
    if (await wait.guest.isHealthy(Math.min(timeoutMs, leftMs), over)) return;
    if (performance.now() > deadline) {
      const console = (await wait.vm.readConsole(CONSOLE_TAIL_BYTES)).toString();
      throw new TorporError(
        'guest_unreachable',
        withConsole(
          `The guest did not respond within ${wait.timeoutMs / 1000} s of its start.`,
          console.split(/\r*\n/),
        ),
        { remedy: GUEST_TIMEOUT_REMEDY },
      );
    }
    await sleep(PROBE_INTERVAL_MS);
  }
}

/** Adds the last lines of the console of a guest that was never ready. */
function withConsole(sentence: string, console: readonly string[]): string {
  const lines = withoutRoutine(console);
  if (lines.length === 0) return `${sentence} The console is empty.`;
  return `${sentence} The console's last lines:\n${lines.slice(-CONSOLE_TAIL_LINES).join('\n')}`;
}
