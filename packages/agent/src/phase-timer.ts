import { recordPart, tracePart } from '@torpor/protocol';

export interface PhaseTiming {
  readonly phase: string;
  readonly milliseconds: number;
}

/** Measures the phases of an operation, in the order in which they were finished, and traces them. */
export class PhaseTimer {
  readonly #timings: PhaseTiming[] = [];
  readonly #start = performance.now();

  async measure<T>(phase: string, action: () => Promise<T>): Promise<T> {
    const start = performance.now();
    try {
      return await tracePart(`agent.${phase}`, {}, action);
    } finally {
      this.#record(phase, performance.now() - start);
    }
  }

  /** Adds a phase that has just ended. */
  add(phase: string, milliseconds: number): void {
    recordPart(`agent.${phase}`, milliseconds);
    this.#record(phase, milliseconds);
  }

  #record(phase: string, milliseconds: number): void {
    this.#timings.push({ phase, milliseconds });
  }

  /** All phases so far, and `total` since the timer was made. */
  finish(): readonly PhaseTiming[] {
    return [...this.#timings, { phase: 'total', milliseconds: performance.now() - this.#start }];
  }
}
