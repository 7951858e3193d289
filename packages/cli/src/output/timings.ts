import type { SandboxInfo } from '@torpor/sdk';
import { type Io, line } from '../io.ts';

type Timings = NonNullable<SandboxInfo['timings']>;

/** `memory 41 ms · total 87 ms` */
function formatTimings(timings: Timings): string {
  return timings
    .map(({ phase, milliseconds }) => `${phase} ${Math.round(milliseconds)} ms`)
    .join(' · ');
}

/** Prints on standard error how long the phases took: on a terminal, or if requested. */
export async function reportTimings(
  io: Io,
  timings: Timings | undefined,
  options: { readonly timings?: boolean | undefined; readonly json?: boolean | undefined },
): Promise<void> {
  if (timings === undefined || timings.length === 0 || options.json) return;
  if (options.timings || io.stderr.isTTY) await line(io.stderr, formatTimings(timings));
}
