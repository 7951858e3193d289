import { PassThrough, Writable } from 'node:stream';
import { type Io, runCli } from '@torpor/cli';

export interface CliResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly stdoutBytes: Buffer;
}

export interface CliInput {
  readonly env?: Record<string, string>;
  /** Standard input; empty by default. */
  readonly stdin?: string | Buffer;
  /** Called with what is written to standard error. */
  readonly onStderr?: (text: string) => void;
  /** Called before the command runs, with a function that sends it a signal. */
  readonly onStart?: (interrupt: (signal: 'SIGINT' | 'SIGTERM') => void) => void;
}

/** Runs a command line in this process, and records its output. */
export async function cli(args: readonly string[], input: CliInput = {}): Promise<CliResult> {
  const stdout = new Memory();
  const stderr = new Memory(input.onStderr);
  const stdin = new PassThrough();
  stdin.end(input.stdin ?? '');
  const handlers = new Set<Parameters<Io['onSignal']>[0]>();
  input.onStart?.((signal) => {
    for (const handler of handlers) handler(signal);
  });
  const io: Io = {
    stdin,
    stdout,
    stderr,
    env: input.env ?? {},
    onSignal: (handler) => {
      handlers.add(handler);
      return () => handlers.delete(handler);
    },
    onSuspend: () => () => undefined,
    onResize: () => () => undefined,
  };
  const exitCode = await runCli(args, io);
  return {
    exitCode,
    stdout: stdout.content.toString(),
    stderr: stderr.content.toString(),
    stdoutBytes: stdout.content,
  };
}

class Memory extends Writable {
  readonly #chunks: Buffer[] = [];
  readonly #onText: (text: string) => void;

  constructor(onText: (text: string) => void = () => undefined) {
    super();
    this.#onText = onText;
  }

  get content(): Buffer {
    return Buffer.concat(this.#chunks);
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#chunks.push(chunk);
    this.#onText(chunk.toString());
    done();
  }
}
