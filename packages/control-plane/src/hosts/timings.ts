import type { hostAgent } from '@torpor/protocol';

/** A phase of an operation, and how long it took. */
export interface PhaseTiming {
  readonly phase: string;
  readonly milliseconds: number;
}

/** Phases of an operation as the agent reports them, in the order in which they completed. */
export function phaseTimings(timings: readonly hostAgent.PhaseTiming[]): PhaseTiming[] {
  return timings.map(({ phase, milliseconds }) => ({ phase, milliseconds }));
}
