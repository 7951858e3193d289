import { lastTerminationSignalMs } from '../termination-signals.ts';

const PARENT_CHECK_INTERVAL_MS = 500;
/** A signal that terminates npm reaches us within this time before or after, if it reaches us at all. */
const SAME_EVENT_MS = 500;

/**
 * Sends this process SIGTERM when the npm that started it has exited: a signal to npm
 * terminates only its shell, and this process would continue as an orphan. It is noticed by the
 * changed parent pid. No SIGTERM is sent if a signal has already reached this process for the
 * same reason: one that also terminated npm (a closed terminal, Ctrl-\), or one that follows from
 * npm's exit. Does nothing in a process that npm did not start.
 */
export function terminateWithNpm(): void {
  if (process.env.npm_lifecycle_event === undefined) return;
  const parent = process.ppid;
  let aliveMs = performance.now();
  const timer = setInterval(() => {
    if (process.ppid === parent) {
      aliveMs = performance.now();
      return;
    }
    clearInterval(timer);
    const sinceMs = aliveMs - SAME_EVENT_MS;
    setTimeout(() => {
      if (lastTerminationSignalMs() < sinceMs) process.kill(process.pid, 'SIGTERM');
    }, SAME_EVENT_MS).unref();
  }, PARENT_CHECK_INTERVAL_MS);
  timer.unref();
}
