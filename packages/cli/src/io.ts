import type { Readable, Writable } from 'node:stream';

export interface OutputStream extends Writable {
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
}

export interface InputStream extends Readable {
  readonly isTTY?: boolean;
  readonly fd?: number;
  setRawMode?(raw: boolean): unknown;
}

export const TERMINATION_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;

/** A signal that asks a command to end. */
export type TerminationSignal = (typeof TERMINATION_SIGNALS)[number];

/** What a command knows of the world outside, so that tests can run one in process. */
export interface Io {
  readonly stdin: InputStream;
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Calls the handler for each termination signal until the returned function is called. */
  onSignal(handler: (signal: TerminationSignal) => void): () => void;
  /**
   * Calls `suspend` before this process stops because of a SIGTSTP from elsewhere (in raw
   * mode Ctrl-Z is a key), and `resume` when it is continued.
   */
  onSuspend(handlers: { suspend(): void; resume(): void }): () => void;
  /** Calls the handler when the terminal changed its size, until the returned function is called. */
  onResize(handler: () => void): () => void;
}

/**
 * A signal that arrives again so soon is the same one: at Ctrl-C the terminal signals the
 * whole foreground group, and npm, which is part of it, then signals us as well.
 */
const SAME_SIGNAL_MS = 300;

export function processIo(): Io {
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    onSignal: (handler) => {
      const lastMs = new Map<TerminationSignal, number>();
      const listener = (signal: TerminationSignal) => {
        const now = performance.now();
        const isNew = now - (lastMs.get(signal) ?? -Infinity) > SAME_SIGNAL_MS;
        lastMs.set(signal, now);
        if (isNew) handler(signal);
      };
      for (const signal of TERMINATION_SIGNALS) process.on(signal, listener);
      return () => {
        for (const signal of TERMINATION_SIGNALS) process.off(signal, listener);
      };
    },
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

/** Nobody reads our output any more: `head` has enough, or the terminal was closed. */
export class ReaderGone extends Error {
  override readonly name = 'ReaderGone';
}

/** Writes and waits until the stream takes more. Throws {@link ReaderGone}. */
export function write(stream: OutputStream, data: string | Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(data, (error: NodeJS.ErrnoException | null | undefined) => {
      if (error == null) resolve();
      else {
        const gone = error.code === 'EPIPE' || (error.code === 'EIO' && stream.isTTY === true);
        reject(gone ? new ReaderGone(error.message) : error);
      }
    });
  });
}

export async function line(stream: Writable, text = ''): Promise<void> {
  await write(stream, `${text}\n`);
}

export async function json(io: Io, value: unknown): Promise<void> {
  await line(io.stdout, JSON.stringify(value));
}
