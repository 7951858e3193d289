const TERMINATION_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;

/** A signal that requests a command to exit. */
export type TerminationSignal = (typeof TERMINATION_SIGNALS)[number];

/**
 * A signal that arrives again within this time is the same one: at Ctrl-C the terminal signals
 * the whole foreground group, and npm, which is part of it, then signals us as well.
 */
const SAME_SIGNAL_MS = 300;

/** Global, because signals are delivered to the process. */
const handlers = new Set<{ readonly handle: (signal: TerminationSignal) => void }>();
const countedMs = new Map<TerminationSignal, number>();
let lastArrivalMs = -Infinity;

/** Calls the handler for each termination signal until the returned function is called. */
export function onTerminationSignal(handle: (signal: TerminationSignal) => void): () => void {
  const entry = { handle };
  if (handlers.size === 0) {
    for (const signal of TERMINATION_SIGNALS) process.on(signal, receive);
  }
  handlers.add(entry);
  return () => {
    if (!handlers.delete(entry) || handlers.size > 0) return;
    // Without a handler a signal terminates the process, which is the default.
    for (const signal of TERMINATION_SIGNALS) process.off(signal, receive);
  };
}

/** When a termination signal last arrived at a handler, on the clock of `performance.now()`. */
export function lastTerminationSignalMs(): number {
  return lastArrivalMs;
}

function receive(signal: TerminationSignal): void {
  lastArrivalMs = performance.now();
  if (lastArrivalMs - (countedMs.get(signal) ?? -Infinity) <= SAME_SIGNAL_MS) return;
  countedMs.set(signal, lastArrivalMs);
  for (const { handle } of [...handlers]) handle(signal);
}
