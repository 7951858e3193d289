import type { Readable, Writable } from 'node:stream';
import { getSystemErrorMessage } from 'node:util';
import { TorporError } from '@torpor/sdk/basics';
import { onTerminationSignal, type TerminationSignal } from './termination-signals.ts';

export interface OutputStream extends Writable {
  readonly isTTY?: boolean;
  readonly fd?: number;
  readonly columns?: number;
  readonly rows?: number;
}

export interface InputStream extends Readable {
  readonly isTTY?: boolean;
  readonly fd?: number;
  setRawMode?(raw: boolean): unknown;
}

/** The environment of a command, so that tests can run one in process. */
export interface Io {
  readonly stdin: InputStream;
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Calls the handler for each termination signal until the returned function is called. */
  onSignal(handler: (signal: TerminationSignal) => void): () => void;
  /**
   * Calls `suspend` before this process stops because of a SIGTSTP from another process (in
   * raw mode Ctrl-Z is a key), and `resume` when it is continued.
   */
  onSuspend(handlers: { suspend(): void; resume(): void }): () => void;
  /** Calls the handler when the terminal changed its size, until the returned function is called. */
  onResize(handler: () => void): () => void;
}

export function processIo(): Io {
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    onSignal: onTerminationSignal,
    onSuspend: ({ suspend, resume }) => {
      const stop = () => {
        suspend();
        process.kill(process.pid, 'SIGSTOP');
      };
      process.on('SIGTSTP', stop);
      process.on('SIGCONT', resume);
      return () => {
        process.off('SIGTSTP', stop);
        process.off('SIGCONT', resume);
      };
    },
    onResize: (handler) => {
      process.on('SIGWINCH', handler);
      return () => process.off('SIGWINCH', handler);
    },
  };
}

/** Our output has no reader any more: `head` has exited, or the terminal was closed. */
export class OutputClosed extends Error {
  override readonly name: string = 'OutputClosed';
}

/** The terminal of our output was closed. A SIGHUP follows, except for background jobs. */
export class TerminalClosed extends OutputClosed {
  override readonly name = 'TerminalClosed';
}

/**
 * Writes and waits until the stream accepts more. Throws {@link OutputClosed}, and TorporError
 * where the output cannot be written for another reason, such as a full disk.
 */
export function write(stream: OutputStream, data: string | Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(data, (error: NodeJS.ErrnoException | null | undefined) => {
      if (error == null) resolve();
      else reject(outputError(stream, error));
    });
  });
}

function outputError({ fd, isTTY }: OutputStream, error: NodeJS.ErrnoException): Error {
  const { code = '', errno, message } = error;
  if (code === 'EPIPE') return new OutputClosed(message);
  if (code === 'EIO' && isTTY === true) return new TerminalClosed(message);
  const name = fd === 2 ? 'Standard error' : 'Standard output';
  const reason = errno === undefined ? message : `${getSystemErrorMessage(errno)} (${code})`;
  const isFull = code === 'ENOSPC' || code === 'EDQUOT';
  return new TorporError(
    isFull ? 'disk_full' : 'internal_error',
    `${name} cannot be written: ${reason}.`,
    {
      remedy: isFull
        ? 'Free space where it goes, or redirect it elsewhere.'
        : 'Redirect it elsewhere.',
      cause: error,
    },
  );
}

export async function line(stream: Writable, text = ''): Promise<void> {
  await write(stream, `${text}\n`);
}

export async function json(io: Io, value: unknown): Promise<void> {
  await line(io.stdout, JSON.stringify(value));
}
