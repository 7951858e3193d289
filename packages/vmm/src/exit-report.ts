import type { ProcessExit } from '@torpor/linux';
import { withFullStop } from '@torpor/protocol';
import { readLastLines } from './console-log.ts';
import type { ExitReport } from './driver.ts';
import { vmmErrors } from './error-lines.ts';

/** What is known of a VMM's exit. */
export interface ExitEvidence {
  /** What the VMM is called in messages. */
  readonly vmm: string;
  /** Empty where it is not known. */
  readonly exit: ProcessExit;
  /** Set when the driver itself stopped the machine: the reason to report. */
  readonly intended: string | undefined;
  /** Why the machine was shut down, as named in QEMU's enum ShutdownCause. */
  readonly shutdownReason: string | undefined;
  readonly consolePath: string;
  readonly outputPath: string;
  /** The VMM's own log; its last error takes precedence over that of its output. */
  readonly logPath?: string;
  /** The meaning of this VMM's exit statuses, appended to the number. */
  readonly statusMeanings?: Readonly<Record<number, string>>;
}

const CONSOLE_TAIL_LINES = 20;
/** A panic's own line is followed by registers and the stack. */
const SEARCHED_LINES = 100;
const MAX_LINE_LENGTH = 400;
const MAX_START_ERRORS = 3;

const SHUTDOWN_SENTENCES: Readonly<Record<string, string>> = {
  'guest-shutdown': 'The guest powered itself down.',
  'guest-reset': 'The guest rebooted, which stops its machine.',
  'guest-panic': "The guest's kernel panicked.",
  'host-signal': 'QEMU exited on a signal from the host.',
  'host-qmp-quit': 'QEMU exited on a quit command.',
  'host-error': 'QEMU exited because of an error on the host.',
};

/** The likely meaning of each for a VMM. */
const SIGNAL_HINTS: Readonly<Record<string, string>> = {
  SIGKILL: ', sent by hand or by the kernel because memory ran out',
  SIGBUS: ': the file system with its memory is probably full',
  SIGSYS: ': it made a system call that its filter forbids',
};

/** One sentence on why the VMM exited, from all that is known, and what the guest printed last. */
export async function reportExit(evidence: ExitEvidence): Promise<ExitReport> {
  const lines = (await readLastLines(evidence.consolePath, SEARCHED_LINES)).map(plainText);
  const { outputPath, logPath } = evidence;
  const lastError = (await recentErrors([outputPath, logPath])).at(-1);
  const consoleTail = lines.slice(-CONSOLE_TAIL_LINES);
  return { reason: reasonOf(evidence, lines, lastError), ...evidence.exit, consoleTail };
}

/**
 * The last errors that a VMM printed or logged before it was ready, to be appended after a
 * colon, with a full stop.
 */
export async function startErrors(paths: readonly string[]): Promise<string> {
  const errors = (await recentErrors(paths)).slice(-MAX_START_ERRORS);
  return withFullStop(errors.length === 0 ? 'it printed no error' : errors.join(' '));
}

/** The errors in these files. A VMM that was killed has often printed warnings and no error. */
async function recentErrors(paths: readonly (string | undefined)[]): Promise<string[]> {
  const files = await Promise.all(
    paths.map((path) => (path === undefined ? [] : readLastLines(path, SEARCHED_LINES))),
  );
  return vmmErrors(files.flat().map(plainText));
}

function reasonOf(
  { vmm, exit, intended, shutdownReason, statusMeanings }: ExitEvidence,
  lines: readonly string[],
  lastError: string | undefined,
): string {
  if (intended !== undefined) return intended;
  const quote = lastError === undefined ? '' : ` Its last error: ${lastError}`;
  if (exit.signal !== undefined) {
    return `${vmm} was terminated by ${exit.signal}${SIGNAL_HINTS[exit.signal] ?? ''}.${quote}`;
  }
  if (exit.exitCode !== undefined && exit.exitCode !== 0) {
    const meaning = statusMeanings?.[exit.exitCode] ?? '';
    return `${vmm} exited with status ${exit.exitCode}${meaning}.${quote}`;
  }
  const panic = shutdownReason === 'guest-shutdown' ? undefined : panicOf(lines);
  if (panic !== undefined) return `The guest's kernel panicked: ${panic}`;
  const failure = bootFailureOf(lines);
  if (failure !== undefined) return `The guest could not start: ${withFullStop(failure)}`;
  if (shutdownReason !== undefined) {
    return SHUTDOWN_SENTENCES[shutdownReason] ?? `${vmm} exited: ${shutdownReason}.`;
  }
  if (exit.exitCode === 0) return `${vmm} exited.${quote}`;
  // One that an earlier process started has no exit status, but it would have printed that it
  // was terminated by a signal.
  return `${vmm} crashed, or was killed by hand or by the kernel because memory ran out; the exit status is unknown.${quote}`;
}

/** The message of a kernel's panic, the last one if there are several. */
function panicOf(lines: readonly string[]): string | undefined {
  for (const line of lines.toReversed()) {
    const message = /Kernel panic - not syncing: (.*?)[.\s]*(?:\]---)?$/.exec(line)?.[1];
    if (message !== undefined) return withFullStop(message);
  }
  return undefined;
}

/** What our initramfs prints before it powers the machine off, which the kernel may confirm. */
function bootFailureOf(lines: readonly string[]): string | undefined {
  const last = lines.findLast((line) => !/^\[ *[\d.]+\] reboot: /.test(line));
  return /^torpor: \[[\d.]+\] boot failed: (.*)$/.exec(last ?? '')?.[1];
}

/** What a guest prints is shown on users' terminals: control characters are removed. */
function plainText(line: string): string {
  return line.replace(/\p{Cc}/gu, '').slice(0, MAX_LINE_LENGTH);
}
