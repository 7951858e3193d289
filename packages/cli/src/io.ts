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

/** What a command knows of the world outside, so that tests can run one in process. */
export interface Io {
  readonly stdin: InputStream;
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Calls the handler for each SIGINT and SIGTERM until the returned function is called. */
  onSignal(handler: (signal: 'SIGINT' | 'SIGTERM' | 'SIGHUP') => void): () => void;
  /** Calls the handler when the terminal changed its size, until the returned function is called. */
  onResize(handler: () => void): () => void;
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

export function processIo(): Io {
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    onSignal: (handler) => {
      for (const signal of SIGNALS) process.on(signal, handler);
      return () => {
        for (const signal of SIGNALS) process.off(signal, handler);
      };
    },
    onResize: (handler) => {
      process.stdout.on('resize', handler);
      return () => process.stdout.off('resize', handler);
    },
  };
}

/** Whoever read our output has gone, as `head` does when it has enough. */
export class ReaderGone extends Error {
  override readonly name = 'ReaderGone';
}

/** Writes and waits until the stream takes more. Throws {@link ReaderGone}. */
export function write(stream: Writable, data: string | Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(data, (error: NodeJS.ErrnoException | null | undefined) => {
      if (error == null) resolve();
      else reject(error.code === 'EPIPE' ? new ReaderGone(error.message) : error);
    });
  });
}

export async function line(stream: Writable, text = ''): Promise<void> {
  await write(stream, `${text}\n`);
}

export async function json(io: Io, value: unknown): Promise<void> {
  await line(io.stdout, JSON.stringify(value));
}
