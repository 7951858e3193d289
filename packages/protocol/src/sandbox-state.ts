import { TorporError } from './errors.ts';

/**
 * The states of a sandbox. Only the control plane has the last two: in `unreachable` its host does
 * not respond, so it may still be running; in `missing` its host responds, and does not have it.
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
  'unreachable',
  'missing',
] as const;

export type SandboxState = (typeof SANDBOX_STATES)[number];

/**
 * The states in which an operation of the control plane, or the host by itself, is changing the
 * sandbox, or the host must still destroy one whose create failed.
 */
const TRANSITIONAL_STATES: ReadonlySet<SandboxState> = new Set([
  'creating',
  'pausing',
  'resuming',
  'snapshotting',
  'destroying',
]);

/** Whether the sandbox is changing to another state. `unreachable` is not transitional: it lasts until the host responds. */
export function isTransitional(state: SandboxState): boolean {
  return TRANSITIONAL_STATES.has(state);
}

/** The states in which a sandbox uses, or is about to use, memory and processors of its host. */
export const STATES_WITH_MEMORY: readonly SandboxState[] = [
  'creating',
  'running',
  'pausing',
  'resuming',
  'snapshotting',
  'destroying',
  'unreachable',
];

/**
 * Every transition that an operation may make. `stopped` is terminal. From `error` a
 * sandbox can be destroyed, or resumed if it still has a build. `missing` is reached only by what
 * the host reports.
 */
const TRANSITIONS: Record<SandboxState, readonly SandboxState[]> = {
  creating: ['running', 'error', 'destroying', 'unreachable'],
  running: ['pausing', 'snapshotting', 'destroying', 'error', 'unreachable'],
  pausing: ['paused', 'running', 'error', 'unreachable'],
  paused: ['resuming', 'snapshotting', 'destroying', 'error', 'unreachable'],
  resuming: ['running', 'paused', 'error', 'unreachable'],
  snapshotting: ['running', 'paused', 'error', 'unreachable'],
  destroying: ['stopped', 'error', 'unreachable'],
  stopped: [],
  error: ['resuming', 'destroying', 'unreachable'],
  unreachable: ['running', 'paused', 'error', 'destroying', 'stopped'],
  missing: ['running', 'paused', 'error', 'destroying', 'stopped'],
};

export function isSandboxState(value: string): value is SandboxState {
  return (SANDBOX_STATES as readonly string[]).includes(value);
}

/** Whether a sandbox may change from one state to the other. */
export function canTransition(from: SandboxState, to: SandboxState): boolean {
  return TRANSITIONS[from].includes(to);
}

/**
 * Throws `invalid_state` unless the transition is allowed. Operations check
 * their changes of a sandbox's state here; the reports of its host are not checked, because
 * only the host knows what happened.
 */
export function assertTransition(id: string, from: SandboxState, to: SandboxState): void {
  if (!canTransition(from, to)) {
    throw new TorporError('invalid_state', `Sandbox ${id} is ${from}; it cannot become ${to}.`);
  }
}
