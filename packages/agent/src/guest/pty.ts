import { TorporError } from '@torpor/protocol';
import type { CallOptions, GuestClient } from './guest-client.ts';
import {
  connectProgram,
  type ProcessEvent,
  type ProgramRequest,
  startProgram,
} from './process-events.ts';
import { newTag } from './processes.ts';

/** What programs on a terminal expect of their environment, unless the caller says otherwise. */
const TERMINAL_ENVIRONMENT = { TERM: 'xterm-256color', LANG: 'C.UTF-8', LC_ALL: 'C.UTF-8' };
const DEFAULT_SIZE = { cols: 80, rows: 24 };
const MAX_SIZE = 0xffff;

export interface TerminalSize {
  /** 1 to 65535; 0 means the default of 80 × 24. */
  readonly cols: number;
  readonly rows: number;
}

export interface PtyRequest extends Omit<ProgramRequest, 'terminal' | 'stdin'> {
  readonly size: TerminalSize;
}

export interface AttachedPty {
  readonly tag: string;
  readonly events: AsyncGenerator<ProcessEvent>;
}

/**
 * Starts a program on a new terminal, or connects to the terminal with the tag if
 * `cmd` is empty. Ending the iteration leaves the terminal as it is.
 */
export function attachPty(guest: GuestClient, request: PtyRequest): AttachedPty {
  if (request.cmd !== '') {
    const tag = request.tag || newTag('pty');
    const terminal = checkedSize(request.size);
    const envs = { ...TERMINAL_ENVIRONMENT, ...request.envs };
    return { tag, events: startProgram(guest, { ...request, tag, terminal, envs, stdin: true }) };
  }
  const selector = byTag(request.tag ?? '');
  return { tag: selector.value, events: connectProgram(guest, selector, request) };
}

export async function sendPtyInput(
  guest: GuestClient,
  tag: string,
  data: Uint8Array,
  options: CallOptions,
): Promise<void> {
  const selector = byTag(tag);
  await guest.call(options, () =>
    guest.process.sendInput(
      { process: { selector }, input: { input: { case: 'pty', value: data } } },
      guest.unary(options),
    ),
  );
}

export async function resizePty(
  guest: GuestClient,
  tag: string,
  size: TerminalSize,
  options: CallOptions,
): Promise<void> {
  const selector = byTag(tag);
  const checked = checkedSize(size);
  await guest.call(options, () =>
    guest.process.update({ process: { selector }, pty: { size: checked } }, guest.unary(options)),
  );
}

/** A terminal by its tag. Throws `invalid_request` for an empty one. */
export function byTag(tag: string): { case: 'tag'; value: string } {
  if (tag === '') {
    throw new TorporError('invalid_request', 'Say which terminal is meant: tag is empty.');
  }
  return { case: 'tag', value: tag };
}

function checkedSize({ cols, rows }: TerminalSize): TerminalSize {
  if (cols === 0 && rows === 0) return DEFAULT_SIZE;
  if (cols < 1 || rows < 1 || cols > MAX_SIZE || rows > MAX_SIZE) {
    throw new TorporError(
      'invalid_request',
      `A terminal of ${cols} columns and ${rows} rows cannot be; both must be between 1 and ${MAX_SIZE}.`,
    );
  }
  return { cols, rows };
}
