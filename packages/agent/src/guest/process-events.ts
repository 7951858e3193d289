import { type envdProcess, TorporError } from '@torpor/protocol';
import { type CallOptions, type GuestClient, STREAM_SILENCE_LIMIT_MS } from './guest-client.ts';
import { failOnSilence } from './stream-watch.ts';

/** What is to be run in the guest. */
export interface ProgramRequest extends CallOptions {
  readonly cmd: string;
  readonly args: readonly string[];
  readonly envs: Readonly<Record<string, string>>;
  /** The default working directory of the guest if omitted. */
  readonly cwd?: string | undefined;
  readonly tag?: string | undefined;
  /** Keep standard input open. */
  readonly stdin?: boolean | undefined;
  /** Its caller does not wait for it: its exit is listed for a while. */
  readonly detached?: boolean | undefined;
  /** If given, the program runs on a terminal of this size. */
  readonly terminal?: { readonly cols: number; readonly rows: number } | undefined;
}

export type ProcessSelector =
  | { readonly case: 'pid'; readonly value: number }
  | { readonly case: 'tag'; readonly value: string };

export type ProcessEvent = envdProcess.ProcessEvent['event'];

/**
 * Starts a program and yields its events, the start event first. Stopping the iteration
 * disconnects from the program, which keeps running. Throws `program_not_found` for a program
 * that does not exist.
 */
export function startProgram(
  guest: GuestClient,
  request: ProgramRequest,
): AsyncGenerator<ProcessEvent> {
  if (request.cmd === '') {
    throw new TorporError('invalid_request', 'There is no program to run: its name is empty.');
  }
  const message = {
    process: {
      cmd: request.cmd,
      args: [...request.args],
      envs: { ...request.envs },
      ...(request.cwd === undefined ? {} : { cwd: request.cwd }),
    },
    stdin: request.stdin ?? false,
    detached: request.detached ?? false,
    ...(request.tag === undefined ? {} : { tag: request.tag }),
    ...(request.terminal === undefined ? {} : { pty: { size: request.terminal } }),
  };
  return processEvents(guest, request, (options) => guest.process.start(message, options));
}

/** The events of a running process, beginning with a start event and its latest output. Throws `not_found`. */
export function connectProgram(
  guest: GuestClient,
  selector: ProcessSelector,
  options: CallOptions,
): AsyncGenerator<ProcessEvent> {
  return processEvents(guest, options, (streamOptions) =>
    guest.process.connect({ process: { selector } }, streamOptions),
  );
}

/** How a program exited, as reported to the control plane. */
export interface ProgramEnd {
  readonly exitCode: number;
  /** What the exit code alone does not say: `signal: killed`, or `exit status 137: out of memory`. */
  readonly error?: string;
}

export function programEnd({
  exitCode,
  exited,
  error,
  status,
}: envdProcess.ProcessEvent_EndEvent): ProgramEnd {
  const message = error || status;
  const saysNoMore = message === '' || (exited && message === status);
  return { exitCode, ...(saysNoMore ? {} : { error: message }) };
}

type StreamOptions = ReturnType<GuestClient['stream']>;

async function* processEvents(
  guest: GuestClient,
  options: CallOptions,
  open: (options: StreamOptions) => AsyncIterable<{
    readonly event?: envdProcess.ProcessEvent | undefined;
  }>,
): AsyncGenerator<ProcessEvent> {
  const abort = new AbortController();
  const signal =
    options.signal === undefined ? abort.signal : AbortSignal.any([options.signal, abort.signal]);
  try {
    const stream = open(guest.stream({ user: options.user, signal }));
    for await (const { event } of failOnSilence(stream, STREAM_SILENCE_LIMIT_MS, abort)) {
      if (event !== undefined) yield event.event;
    }
  } catch (error) {
    throw guest.error(error, options);
  } finally {
    abort.abort();
  }
}
