import { signalStatus } from '@torpor/protocol';
import type { ProcessEnd } from '../process-end.ts';

export function endByStatus(exitCode: number): ProcessEnd {
  const status = `exit status ${exitCode}`;
  return {
    exitCode,
    exited: true,
    status,
    error: exitCode === 0 ? undefined : status,
  };
}

export function endBySignal(signal: NodeJS.Signals): ProcessEnd {
  const status = signalStatus(signal);
  return { exitCode: -1, exited: false, status, error: status };
}
