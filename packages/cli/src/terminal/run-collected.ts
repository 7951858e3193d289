import { type ExecSession, MAX_EXEC_OUTPUT_BYTES, type Sandbox } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import { exitCodeOfProgram, exitCodeOfSignal } from '../exit-codes.ts';
import { type Io, json } from '../io.ts';
import type { TerminationSignal } from '../termination-signals.ts';
import { forwardInput } from './forward-input.ts';
import type { AttachedOptions } from './run-attached.ts';

/**
 * Runs a program in a sandbox, prints its result as one JSON object, and returns the exit
 * status. A termination signal aborts the call, which kills the program.
 */
export async function runCollected(
  io: Io,
  sandbox: Sandbox,
  [cmd, ...args]: readonly string[],
  { stdin, ...options }: AttachedOptions,
): Promise<number> {
  if (cmd === undefined) throw new TorporError('invalid_request', 'No program to run is given.');
  const { promise: interrupted, resolve } = Promise.withResolvers<TerminationSignal>();
  const unsubscribe = io.onSignal(resolve);
  const opening = sandbox.execStream(cmd, args, { ...options, stdin, binary: true });
  try {
    const collecting = opening.then((session) => collect(io, session, stdin));
    const collected = await Promise.race([collecting, interrupted]);
    if (typeof collected === 'string') return exitCodeOfSignal(collected);
    const { exit, ...result } = collected;
    await json(io, { id: sandbox.id, ...result });
    return exitCodeOfProgram(exit);
  } finally {
    unsubscribe();
    // Closing the stream kills a program that is still running.
    void opening.then((opened) => opened[Symbol.asyncDispose]()).catch(() => undefined);
    if (stdin) io.stdin.destroy();
  }
}

async function collect(io: Io, session: ExecSession, stdin: boolean) {
  const startedMs = performance.now();
  if (stdin) void forwardInput(io, session);
  const outputs = { stdout: new BoundedOutput(), stderr: new BoundedOutput() };
  for await (const { stream, data } of session.output()) outputs[stream].add(data);
  const exit = await session.wait();
  return {
    exit,
    exit_code: exit.exitCode,
    ...(exit.error === undefined ? {} : { status: exit.error }),
    stdout: outputs.stdout.text,
    stderr: outputs.stderr.text,
    duration_ms: Math.round(performance.now() - startedMs),
    truncated: outputs.stdout.truncated || outputs.stderr.truncated,
  };
}

/** The beginning of a program's output, up to the API's limit. */
class BoundedOutput {
  readonly #chunks: Uint8Array[] = [];
  #bytes = 0;

  add(data: Uint8Array): void {
    const room = Math.max(0, MAX_EXEC_OUTPUT_BYTES - this.#bytes);
    if (room > 0) this.#chunks.push(data.subarray(0, room));
    this.#bytes += data.length;
  }

  get text(): string {
    return Buffer.concat(this.#chunks).toString();
  }

  get truncated(): boolean {
    return this.#bytes > MAX_EXEC_OUTPUT_BYTES;
  }
}
