import type { SetupReport } from '@torpor/agent/host-setup';
import type { Io } from '../io.ts';
import { printStatus } from './progress.ts';

/** The few lines of apt that show progress. */
const APT_PROGRESS = /^(Setting up|Get:|E:|W:|Err:)/;

/** Set-up, line by line on standard error. */
export function setupReport(io: Io): SetupReport {
  return {
    step: (text) => printStatus(io, text),
    output: (text) => {
      if (APT_PROGRESS.test(text)) printStatus(io, `  ${text}`);
    },
  };
}
