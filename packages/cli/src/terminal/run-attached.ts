import { TorporError } from '@torpor/protocol';
import type { ExecSession, ExecStreamOptions, Sandbox } from '@torpor/sdk';
import { exitCodeOfProgram, SIGNAL_EXIT_BASE } from '../exit-codes.ts';
import { type Io, write } from '../io.ts';

const SIGNAL_NUMBERS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
const SIGPIPE_NUMBER = 13;

export interface AttachedOptions extends Omit<ExecStreamOptions, 'stdin' | 'signal'> {
  /** Whether our standard input becomes the program's. */
  readonly stdin: boolean;
}

/**
 * Runs a program in a sandbox with our standard streams, and returns the status
 * to end with. A first SIGINT, SIGTERM or SIGHUP asks the program to end, a second
 * one kills it; then the status is that of the signal.
 */
export async function runAttached(
  io: Io,
  sandbox: Sandbox,
  [cmd, ...args]: readonly string[],
  { stdin, ...options }: AttachedOptions,
): Promise<number> {
  if (cmd === undefined) throw new TorporError('invalid_request', 'Say which program to run.');
  let signalled: keyof typeof SIGNAL_NUMBERS | undefined;
  await using session = await sandbox.execStream(cmd, args, { ...options, stdin });
  const unsubscribe = io.onSignal((signal) => {
    const ending =
      signalled === undefined
        ? sandbox.processes.kill(session.pid, { name: 'SIGTERM' })
        : session.stop();
    // It may have ended meanwhile; the stream says so.
    ending.catch(() => undefined);
    signalled ??= signal;
  });
  try {
    if (stdin) void forwardInput(io, session);
    const readable = await forwardOutput(io, session);
    if (!readable) return SIGNAL_EXIT_BASE + SIGPIPE_NUMBER;
    const exit = await session.wait();
    return signalled === undefined
      ? exitCodeOfProgram(exit)
      : SIGNAL_EXIT_BASE + SIGNAL_NUMBERS[signalled];
  } finally {
    unsubscribe();
    if (stdin) io.stdin.destroy();
  }
}

/** A program that ends without reading its input is judged by its status, so errors here are none. */
async function forwardInput(io: Io, session: ExecSession): Promise<void> {
  try {
    for await (const chunk of io.stdin) await session.write(chunk);
    await session.closeStdin();
  } catch {
    return;
  }
}

/** False if our own reader went away. */
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
