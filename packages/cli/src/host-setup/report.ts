import type { Io } from '../io.ts';
import { news } from '../output/progress.ts';
import type { AptReport } from './apt.ts';

/** Lines of apt that say that it works, of many that say nothing. */
const APT_NEWS = /^(Setting up|Get:|E:|W:|Err:)/;

/** Set-up, line by line on standard error. */
export function setupReport(io: Io): AptReport {
  return {
    step: (text) => news(io, text),
    output: (text) => {
      if (APT_NEWS.test(text)) news(io, `  ${text}`);
    },
  };
}
