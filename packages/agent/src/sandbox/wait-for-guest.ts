import { setTimeout as sleep } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import type { ExitReport, MicroVm } from '@torpor/vmm';
import type { GuestClient } from '../guest/guest-client.ts';

/** A probe of a guest without a network yet goes unanswered; a short one finds a fresh daemon sooner. */
const PROBE_TIMEOUT_MS = 500;
const PROBE_INTERVAL_MS = 30;
const CONSOLE_TAIL_BYTES = 2048;
const CONSOLE_TAIL_LINES = 12;

export interface GuestWait {
  readonly vm: MicroVm;
  readonly guest: GuestClient;
  readonly timeoutMs: number;
  /** Ends the wait with the signal's reason. */
  readonly signal: AbortSignal;
}

/**
 * Waits until envd answers. Throws `vmm_failed` at once when the VMM ends, and
 * `guest_unreachable` when the time is up; both with the console's last lines.
 */
export async function waitForGuest(wait: GuestWait): Promise<void> {
  const over = new AbortController();
  const ended = wait.vm.exited.then((report) => {
    throw new TorporError(
      'vmm_failed',
      `The virtual machine ended before the guest was ready: ${exitReason(report)}`,
    );
  });
  try {
    await Promise.race([ended, poll(wait, over.signal)]);
  } finally {
    over.abort();
    ended.catch(() => undefined);
  }
}

/** Why a VMM ended, with the last lines that the guest printed. */
export function exitReason(report: ExitReport): string {
  return withConsole(report.reason, report.consoleTail);
}

async function poll(wait: GuestWait, over: AbortSignal): Promise<void> {
  const deadline = performance.now() + wait.timeoutMs;
  while (!over.aborted) {
    wait.signal.throwIfAborted();
    if (await wait.guest.isHealthy(PROBE_TIMEOUT_MS)) return;
    if (performance.now() > deadline) {
      const console = (await wait.vm.readConsole(CONSOLE_TAIL_BYTES)).toString();
      throw new TorporError(
        'guest_unreachable',
        withConsole(
          `The guest did not answer within ${wait.timeoutMs / 1000} s of its start.`,
          console.split(/\r*\n/).filter((line) => line.trim() !== ''),
        ),
      );
    }
    await sleep(PROBE_INTERVAL_MS);
  }
}

function withConsole(sentence: string, lines: readonly string[]): string {
  if (lines.length === 0) return `${sentence} The console is empty.`;
  return `${sentence} The console's last lines:\n${lines.slice(-CONSOLE_TAIL_LINES).join('\n')}`;
}
