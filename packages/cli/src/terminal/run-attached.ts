import type { ExecSession, ExecStreamOptions, Sandbox } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import { EXIT, exitCodeOfProgram, exitCodeOfSignal } from '../exit-codes.ts';
import { type Io, OutputClosed } from '../io.ts';
import { reportExhaustion } from '../output/report-exhaustion.ts';
import { forwardInput } from './forward-input.ts';
import { SignalRelay } from './signal-relay.ts';

export interface AttachedOptions extends Omit<ExecStreamOptions, 'stdin' | 'signal'> {
  /** Whether our standard input becomes the program's. */
  readonly stdin: boolean;
}

/**
 * Runs a program in a sandbox with our standard streams, and returns the exit status.
 * The first termination signal is passed on to the program, the second kills it, and after the
 * third, or one that the guest does not accept, it is no longer waited for. If the program
 * exits after the first signal, the exit status is its own; otherwise it is that of the first
 * signal.
 */
export async function runAttached(
  io: Io,
  sandbox: Sandbox,
  [cmd, ...args]: readonly string[],
  { stdin, ...options }: AttachedOptions,
): Promise<number> {
  if (cmd === undefined) throw new TorporError('invalid_request', 'No program to run is given.');
  using signals = new SignalRelay(io, sandbox);
  const abandoned = signals.abandoned.then(() => undefined);
  const opening = sandbox.execStream(cmd, args, { ...options, stdin, binary: true });
  try {
    const session = await Promise.race([opening, abandoned]);
    if (session !== undefined) signals.started(session.pid);
    const status =
      session === undefined
        ? undefined
        : await Promise.race([followProgram(io, session, { stdin, signals }), abandoned]);
    return signals.exitCode(status) ?? EXIT.ok;
  } finally {
    // Closing the stream kills a program that is still running.
    void opening.then((opened) => opened[Symbol.asyncDispose]()).catch(() => undefined);
    if (stdin) io.stdin.destroy();
  }
}

/** Connects the streams; returns the exit status once the program has exited. */
async function followProgram(
  io: Io,
  session: ExecSession,
  { stdin, signals }: { readonly stdin: boolean; readonly signals: SignalRelay },
): Promise<number> {
  if (stdin) void forwardInput(io, session);
  const readable = await forwardOutput(io, session, signals);
  if (!readable) return exitCodeOfSignal('SIGPIPE');
  const exit = await session.wait();
  reportExhaustion(io, exit);
  return exitCodeOfProgram(exit);
}

/** False if our output has no reader any more. */
async function forwardOutput(io: Io, session: ExecSession, signals: SignalRelay): Promise<boolean> {
  for await (const { stream, data } of session.output()) {
    try {
      await signals.print(stream === 'stdout' ? io.stdout : io.stderr, data);
    } catch (error) {
      if (error instanceof OutputClosed) return false;
      throw error;
    }
  }
  return true;
}
