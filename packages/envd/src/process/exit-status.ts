import { signalStatus } from '@torpor/protocol';
import type { ProcessExit } from '../process-exit.ts';

export function exitByStatus(exitCode: number): ProcessExit {
  const status = `exit status ${exitCode}`;
  return {
    exitCode,
    exited: true,
    status,
    error: exitCode === 0 ? undefined : status,
  };
}

export function exitBySignal(signal: NodeJS.Signals): ProcessExit {
  const status = signalStatus(signal);
  return { exitCode: -1, exited: false, status, error: status };
}
