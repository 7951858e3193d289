import { randomBytes } from 'node:crypto';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { type envdProcess, sendStream, signalNumber, TorporError } from '@torpor/protocol';
import type { CallOptions, GuestClient } from './guest-client.ts';
import {
  type ProcessSelector,
  type ProgramEnd,
  type ProgramRequest,
  programEnd,
  startProgram,
} from './process-events.ts';

export interface StartedProcess {
  readonly pid: number;
  readonly tag: string;
}

export interface ProcessEntry {
  readonly pid: number;
  readonly tag?: string;
  readonly cmd: string;
  readonly args: readonly string[];
  /** Once it has exited. */
  readonly end?: ProgramEnd;
}

/** A tag for a process that its caller did not name: the prefix and eight hexadecimal digits. */
export function newTag(prefix: 'proc' | 'pty'): string {
  return `${prefix}-${randomBytes(4).toString('hex')}`;
}

/** Starts a program in the background; its output can be followed later by tag or pid. */
export async function startBackground(
  guest: GuestClient,
  request: ProgramRequest,
): Promise<StartedProcess> {
  const tag = request.tag ?? newTag('proc');
  for await (const event of startProgram(guest, { ...request, tag, detached: true })) {
    if (event.case === 'start') return { pid: event.value.pid, tag };
  }
  throw new TorporError('guest_unreachable', 'The guest did not report which process it started.');
}

export async function listProcesses(
  guest: GuestClient,
  options: CallOptions & { readonly includeExited?: boolean },
): Promise<ProcessEntry[]> {
  const { processes } = await guest.call(options, () =>
    guest.process.list({ includeExited: options.includeExited === true }, guest.unary(options)),
  );
  return processes.map(({ config, pid, tag, end }) => ({
    pid,
    ...(tag === undefined ? {} : { tag }),
    cmd: config?.cmd ?? '',
    args: config?.args ?? [],
    ...(end === undefined ? {} : { end: programEnd(end) }),
  }));
}

/** Sends a signal to a process and its group. Throws `not_found`. */
export async function killProcess(
  guest: GuestClient,
  selector: ProcessSelector,
  signalName: string,
  options: CallOptions,
): Promise<void> {
  const signal = wireSignal(signalName);
  await guest.call(options, () =>
    guest.process.sendSignal({ process: { selector }, signal }, guest.unary(options)),
  );
}

/** Writes to the standard input of a process, and closes it after that if `end` is set. */
export async function sendInput(
  guest: GuestClient,
  selector: ProcessSelector,
  input: { readonly data: Uint8Array; readonly end: boolean },
  options: CallOptions,
): Promise<void> {
  await guest.call(options, async () => {
    if (input.data.length > 0) {
      await guest.process.sendInput(
        { process: { selector }, input: { input: { case: 'stdin', value: input.data } } },
        guest.unary(options),
      );
    }
    if (input.end) await guest.process.closeStdin({ process: { selector } }, guest.unary(options));
  });
}

type InputMessage = MessageInitShape<typeof envdProcess.StreamInputRequestSchema>;

/** Of a message to the guest. A little below a power of two, to which messages are allocated. */
const INPUT_MESSAGE_BYTES = 127 * 1024;

/**
 * Writes to the standard input of a process as the pieces arrive, with back-pressure from the
 * process. `close` is the last piece, and closes it after all has been read.
 */
export async function streamInput(
  guest: GuestClient,
  selector: ProcessSelector,
  pieces: AsyncIterable<Uint8Array | 'close'>,
  options: CallOptions,
): Promise<void> {
  let close = false;
  async function* messages(): AsyncGenerator<InputMessage> {
    yield { event: { case: 'start', value: { process: { selector } } } };
    for await (const piece of pieces) {
      if (piece === 'close') {
        close = true;
        return;
      }
      for (let at = 0; at < piece.length; at += INPUT_MESSAGE_BYTES) {
        const value = piece.subarray(at, at + INPUT_MESSAGE_BYTES);
        yield { event: { case: 'data', value: { input: { input: { case: 'stdin', value } } } } };
      }
    }
  }
  await guest.call(options, async () => {
    await sendStream(messages(), (stream) =>
      guest.process.streamInput(stream, guest.stream(options)),
    );
    if (close) await guest.process.closeStdin({ process: { selector } }, guest.unary(options));
  });
}

/** The wire's enum names two signals, but its values are signal numbers. */
function wireSignal(name: string): envdProcess.Signal {
  const number = signalNumber(name);
  if (number !== undefined) return number as envdProcess.Signal;
  throw new TorporError('invalid_request', `There is no signal ${JSON.stringify(name)}.`);
}
