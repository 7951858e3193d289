import { spawn } from 'node:child_process';

export interface CommandOptions {
  /** Written to the program's standard input. */
  readonly input?: string | Uint8Array;
  readonly timeoutMs?: number;
  readonly cwd?: string;
  readonly env?: Record<string, string>;
  readonly signal?: AbortSignal;
  /** Run in a new session, so that Ctrl-C on our terminal does not reach the program. */
  readonly ownSession?: boolean;
  /** Called with each line of output, both streams, as it comes. */
  readonly onLine?: (line: string) => void;
}

/** A program that could not be run, or exited with a status other than 0. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly command: readonly string[];
  readonly exitCode: number | undefined;
  readonly stderr: string;

  constructor(
    command: readonly string[],
    what: string,
    exitCode: number | undefined,
    stderr: string,
  ) {
    const message = stderr.trim().split('\n').slice(-5).join('\n');
    super(`${command.join(' ')}: ${what}${message === '' ? '' : `: ${message}`}`);
    this.command = command;
    this.exitCode = exitCode;
    this.stderr = stderr;
  }
}

const MAX_CAPTURED_BYTES = 16 * 1024 * 1024;

/**
 * Runs a program with an argument list (never through a shell) and returns what
 * it printed on standard output, at most 16 MiB. Throws {@link CommandError}.
 */
export function runCommand(
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<string> {
  const command = [program, ...args];
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.env === undefined ? {} : { env: options.env }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
      ...(options.timeoutMs === undefined ? {} : { timeout: options.timeoutMs }),
      detached: options.ownSession === true,
      killSignal: 'SIGKILL',
    });
    const capture = (stream: NodeJS.ReadableStream): (() => string) => {
      const chunks: Buffer[] = [];
      let size = 0;
      let pending = '';
      stream.on('data', (chunk: Buffer) => {
        if (size < MAX_CAPTURED_BYTES) chunks.push(chunk);
        size += chunk.length;
        if (options.onLine === undefined) return;
        const lines = (pending + chunk.toString()).split('\n');
        pending = lines.pop() ?? '';
        for (const line of lines) options.onLine(line);
      });
      return () => Buffer.concat(chunks).toString();
    };
    const stdout = capture(child.stdout);
    const stderr = capture(child.stderr);
    child.on('error', (error) => {
      reject(new CommandError(command, error.message, undefined, stderr()));
    });
    child.on('close', (code, signal) => {
      if (code === 0) return resolve(stdout());
      const what = code === null ? `killed by ${signal}` : `exit status ${code}`;
      reject(new CommandError(command, what, code ?? undefined, stderr()));
    });
    // A program that exits without reading its input is judged by its exit status.
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.input);
  });
}
