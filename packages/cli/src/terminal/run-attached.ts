import { TorporError } from '@torpor/protocol';
import type { ExecSession, ExecStreamOptions, Sandbox } from '@torpor/sdk';
import { EXIT, exitCodeOfProgram, exitCodeOfSignal } from '../exit-codes.ts';
import { type Io, type TerminationSignal, write } from '../io.ts';
import { reportExhaustion } from '../output/report-exhaustion.ts';

export interface AttachedOptions extends Omit<ExecStreamOptions, 'stdin' | 'signal'> {
  /** Whether our standard input becomes the program's. */
  readonly stdin: boolean;
}

/** With the third signal we stop waiting for the program. */
const SIGNALS_UNTIL_ABANDONED = 3;
/** A guest that has not taken a signal by then hangs, and the program with it. */
const DELIVERY_TIMEOUT_MS = 10_000;

/**
 * Runs a program in a sandbox with our standard streams, and returns the status to exit
 * with. The first termination signal is passed on to the program, the second kills it, the
 * third no longer waits for it, nor does one that the guest does not take. A program that
 * exits after the first signal is judged by its own status; otherwise the status is that of
 * the first signal.
 */
export async function runAttached(
  io: Io,
  sandbox: Sandbox,
  [cmd, ...args]: readonly string[],
  { stdin, ...options }: AttachedOptions,
): Promise<number> {
  if (cmd === undefined) throw new TorporError('invalid_request', 'Say which program to run.');
  const signals: TerminationSignal[] = [];
  const { promise: abandoned, resolve: abandon } = Promise.withResolvers<undefined>();
  let session: ExecSession | undefined;
  const deliver = (to: ExecSession, signal: TerminationSignal) => {
    // Not through the stream, where it would wait behind the input that the program does not read.
    const delivered = sandbox.processes.kill(to.pid, {
      name: signals.length === 1 ? signal : 'SIGKILL',
      signal: AbortSignal.timeout(DELIVERY_TIMEOUT_MS),
    });
    delivered.catch((reason: unknown) => {
      // It may have exited meanwhile; the stream says so. A guest that takes no signal says nothing.
      if (TorporError.from(reason).code !== 'not_found') abandon(undefined);
    });
  };
  const unsubscribe = io.onSignal((signal) => {
    signals.push(signal);
    const limit = session === undefined ? SIGNALS_UNTIL_ABANDONED - 1 : SIGNALS_UNTIL_ABANDONED;
    if (signals.length >= limit) return abandon(undefined);
    if (session !== undefined) deliver(session, signal);
  });
  const opening = sandbox.execStream(cmd, args, { ...options, stdin, binary: true });
  try {
    session = await Promise.race([opening, abandoned]);
    const [early] = signals;
    if (session !== undefined && early !== undefined) deliver(session, early);
    const status =
      session === undefined
        ? undefined
        : await Promise.race([followProgram(io, session, stdin), abandoned]);
    const [first] = signals;
    const isItsOwn = status !== undefined && signals.length <= 1;
    return isItsOwn || first === undefined ? (status ?? EXIT.ok) : exitCodeOfSignal(first);
  } finally {
    unsubscribe();
    // Closing the stream kills a program that still runs.
    void opening.then((opened) => opened[Symbol.asyncDispose]()).catch(() => undefined);
    if (stdin) io.stdin.destroy();
  }
}

/** Connects the streams; returns the status to exit with once the program has ended. */
async function followProgram(io: Io, session: ExecSession, stdin: boolean): Promise<number> {
  if (stdin) void forwardInput(io, session);
  const readable = await forwardOutput(io, session);
  if (!readable) return exitCodeOfSignal('SIGPIPE');
  const exit = await session.wait();
  reportExhaustion(io, exit);
  return exitCodeOfProgram(exit);
}

/** A program that exits without reading its input is judged by its status, so errors here are none. */
async function forwardInput(io: Io, session: ExecSession): Promise<void> {
  try {
    for await (const chunk of io.stdin) await session.write(chunk);
    await session.closeStdin();
  } catch {
    return;
  }
}

/** False if nobody reads our output any more. */
async function forwardOutput(io: Io, session: ExecSession): Promise<boolean> {
  for await (const { stream, data } of session.output()) {
    try {
      await write(stream === 'stdout' ? io.stdout : io.stderr, data);
    } catch {
      return false;
    }
  }
  return true;
}
