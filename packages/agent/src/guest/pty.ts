import { TorporError } from '@torpor/protocol';
import type { CallOptions, GuestClient } from './guest-client.ts';
import {
  connectProgram,
  type ProcessEvent,
  type ProgramRequest,
  startProgram,
} from './process-events.ts';
import { newTag } from './processes.ts';

/** Environment variables of programs on a terminal, unless the caller sets others. */
const TERMINAL_ENVIRONMENT = { TERM: 'xterm-256color', LANG: 'C.UTF-8', LC_ALL: 'C.UTF-8' };
const DEFAULT_SIZE = { cols: 80, rows: 24 };
const MAX_SIZE = 0xffff;

export interface TerminalSize {
  /** 1 to 65535. */
  readonly cols: number;
  readonly rows: number;
}

export interface PtyRequest extends Omit<ProgramRequest, 'cmd' | 'terminal' | 'stdin'> {
  /** If omitted, connects to the terminal with the tag. */
  readonly cmd?: string | undefined;
  /** Of a new terminal; 80 × 24 if both are omitted. */
  readonly cols?: number | undefined;
  readonly rows?: number | undefined;
}

export interface AttachedPty {
  readonly tag: string;
  readonly events: AsyncGenerator<ProcessEvent>;
}

/**
 * Starts a program on a new terminal, or connects to the terminal with the tag if there is no
 * `cmd`. Stopping the iteration does not affect the terminal.
 */
export function attachPty(guest: GuestClient, request: PtyRequest): AttachedPty {
  const { cmd } = request;
  if (cmd !== undefined) {
    const { tag = newTag('pty') } = request;
    const terminal = sizeOf(request);
    const envs = { ...TERMINAL_ENVIRONMENT, ...request.envs };
    return {
      tag,
      events: startProgram(guest, { ...request, cmd, tag, terminal, envs, stdin: true }),
    };
  }
  const selector = byTag(requireTag(request.tag));
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

/** The size of a new terminal. Throws `invalid_request` for an impossible one. */
function sizeOf({ cols, rows }: PtyRequest): TerminalSize {
  if (cols === undefined && rows === undefined) return DEFAULT_SIZE;
  if (cols === undefined || rows === undefined) {
    throw new TorporError(
      'invalid_request',
      'A terminal needs both its columns and its rows, or neither.',
    );
  }
  return checkedSize({ cols, rows });
}

function requireTag(tag: string | undefined): string {
  if (tag !== undefined) return tag;
  throw new TorporError(
    'invalid_request',
    'Give a program to start on a new terminal, or the tag of an existing terminal.',
  );
}

/** A terminal by its tag. Throws `invalid_request` for an empty one. */
export function byTag(tag: string): { case: 'tag'; value: string } {
  if (tag === '') {
    throw new TorporError('invalid_request', 'The tag of the terminal is empty.');
  }
  return { case: 'tag', value: tag };
}

function checkedSize({ cols, rows }: TerminalSize): TerminalSize {
  if (cols < 1 || rows < 1 || cols > MAX_SIZE || rows > MAX_SIZE) {
    throw new TorporError(
      'invalid_request',
      `A terminal of ${cols} columns and ${rows} rows is not possible; both must be between 1 and ${MAX_SIZE}.`,
    );
  }
  return { cols, rows };
}
