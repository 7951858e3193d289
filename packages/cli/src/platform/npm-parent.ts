import { lastTerminationSignalMs } from '../termination-signals.ts';

const PARENT_CHECK_INTERVAL_MS = 500;
/** What ends npm reaches us within this time before or after, if it reaches us at all. */
const SAME_EVENT_MS = 500;

/**
 * Sends this process SIGTERM when the npm that started it has ended: npm that is told to end
 * ends its shell only, and this process would continue as an orphan. Nothing announces that,
 * but its parent is another process afterwards. A signal that came to us when npm ended (it
 * dies of a terminal that is closed, and of Ctrl-\) or that follows from its end (the terminal
 * is closed with it) has said it already. Does nothing in a process that npm did not start.
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
