import type { PhaseTimer, PhaseTiming } from '../phase-timer.ts';
import type { SandboxRecord } from '../registry/record.ts';
import { currentRecord } from '../registry/records.ts';
import type { Sandbox } from '../registry/sandbox.ts';

/** The result of a lifecycle operation, and how long its phases took. */
export interface SandboxOutcome {
  readonly record: SandboxRecord;
  readonly timings: readonly PhaseTiming[];
}

export function outcome(sandbox: Sandbox, timer: PhaseTimer): SandboxOutcome {
  return { record: currentRecord(sandbox), timings: timer.finish() };
}
