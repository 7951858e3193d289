import { TorporError } from '@torpor/protocol';
import type { RunningMachine } from '../machine/running-machine.ts';
import type { Sandbox } from '../registry/sandbox.ts';

/** The machine of a running sandbox. Throws `invalid_state`, saying that it cannot be `participle`. */
export function requireRunning(sandbox: Sandbox, participle: string): RunningMachine {
  const { machine, record } = sandbox;
  if (record.state === 'running' && machine !== undefined) return machine;
  throw notPossible(sandbox, participle);
}

export function notPossible({ id, record }: Sandbox, participle: string): TorporError {
  const why = record.reason === undefined ? '' : `: ${record.reason}`;
  return new TorporError(
    'invalid_state',
    `Sandbox ${id} is ${record.state}; it cannot be ${participle}${why}`,
  );
}
