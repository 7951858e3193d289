import type { Build } from '@torpor/builds';
import type { SandboxState } from '@torpor/protocol';
import type { PhaseTimer, PhaseTiming } from '../phase-timer.ts';
import type { SandboxRecord, SandboxSpec } from '../registry/record.ts';
import type { RunningMachine, Sandbox } from '../registry/sandbox.ts';

/** What a lifecycle operation leaves, and how long its phases took. */
export interface SandboxOutcome {
  readonly record: SandboxRecord;
  readonly timings: readonly PhaseTiming[];
}

/** Fields of a record to be changed; `undefined` removes one. */
export type RecordChanges = {
  readonly [Field in keyof SandboxRecord]?: SandboxRecord[Field] | undefined;
};

export interface MachineSource {
  /** What to check out; absent: the image that the sandbox's spec names. */
  readonly build?: Build | undefined;
  readonly environment: Readonly<Record<string, string>>;
  readonly timer: PhaseTimer;
}

/** How operations change sandboxes: under the lock, through the table of transitions, durably. */
export interface SandboxLedger {
  /** Throws `not_found`. */
  find(id: string): Sandbox;
  /** Runs an operation under the sandbox's lock, to its end. */
  run<T>(id: string, action: () => Promise<T>): Promise<T>;
  transition(sandbox: Sandbox, to: SandboxState, changes?: RecordChanges): Promise<void>;
  /** Changes a record without leaving the state. */
  change(sandbox: Sandbox, changes: RecordChanges): Promise<void>;
  bringUp(sandbox: Sandbox, source: MachineSource): Promise<RunningMachine>;
  /** Makes a machine that is up the sandbox's, which is `running` from then on. */
  goLive(sandbox: Sandbox, machine: RunningMachine): Promise<void>;
  /** Ends the machine and frees everything outside the sandbox's directory. */
  release(sandbox: Sandbox): Promise<void>;
  /** A new sandbox from a build. */
  createFrom(id: string, spec: SandboxSpec, build: Build): Promise<SandboxOutcome>;
  outcome(sandbox: Sandbox, timer: PhaseTimer): SandboxOutcome;
  /** Has what nothing reaches any more collected, before long. */
  collectSoon(): void;
}
