import { TorporError } from './errors.ts';

/**
 * The states of a sandbox. `missing` is known to the control plane only: the host
 * that ran the sandbox does not respond.
 */
export const SANDBOX_STATES = [
  'creating',
  'running',
  'pausing',
  'paused',
  'resuming',
  'snapshotting',
  'destroying',
  'stopped',
  'error',
  'missing',
] as const;

export type SandboxState = (typeof SANDBOX_STATES)[number];

/**
 * The states on the way to another. An operation of the control plane, or the host by itself,
 * is at work on the sandbox, or the host still owes the end of a sandbox whose create failed.
 */
const TRANSITIONAL_STATES: ReadonlySet<SandboxState> = new Set([
  'creating',
  'pausing',
  'resuming',
  'snapshotting',
  'destroying',
]);

/** Whether the sandbox is on its way to another state. `missing` is none: it lasts until the host responds. */
export function isTransitional(state: SandboxState): boolean {
  return TRANSITIONAL_STATES.has(state);
}

/**
 * Every transition that an operation may make. `stopped` is terminal. From `error` a
 * sandbox can be destroyed, or resumed where it still has a build.
 */
const TRANSITIONS: Record<SandboxState, readonly SandboxState[]> = {
  creating: ['running', 'error', 'destroying', 'missing'],
  running: ['pausing', 'snapshotting', 'destroying', 'error', 'missing'],
  pausing: ['paused', 'running', 'error', 'missing'],
  paused: ['resuming', 'snapshotting', 'destroying', 'error', 'missing'],
  resuming: ['running', 'paused', 'error', 'missing'],
  snapshotting: ['running', 'paused', 'error', 'missing'],
  destroying: ['stopped', 'error', 'missing'],
  stopped: [],
  error: ['resuming', 'destroying', 'missing'],
  missing: ['running', 'paused', 'error', 'destroying', 'stopped'],
};

export function isSandboxState(value: string): value is SandboxState {
  return (SANDBOX_STATES as readonly string[]).includes(value);
}

/** Whether a sandbox may go from one state to the other. */
export function canTransition(from: SandboxState, to: SandboxState): boolean {
  return TRANSITIONS[from].includes(to);
}

/**
 * Throws `invalid_state` unless the transition is allowed. What an operation does to a
 * sandbox's state passes through here; what its host reports does not, because only
 * the host knows what happened.
 */
export function assertTransition(id: string, from: SandboxState, to: SandboxState): void {
  if (!canTransition(from, to)) {
    throw new TorporError('invalid_state', `Sandbox ${id} is ${from}; it cannot become ${to}.`);
  }
}
