import { setTimeout as delay } from 'node:timers/promises';
import { spawn } from '@lydell/node-pty';

const WAIT_MS = 30_000;

/** A command on its own terminal, in the foreground group. */
export interface Terminal extends Disposable {
  readonly pid: number;
  /** The output so far. */
  output(): string;
  type(text: string): void;
  resize(columns: number, rows: number): void;
  /** Closes it, like a window or a connection: the kernel sends SIGHUP. */
  hangUp(): void;
  /** Resolves with the exit status when the command has exited. */
  readonly exited: Promise<number>;
}

export function openTerminal(script: string, env: Record<string, string>): Terminal {
  const pty = spawn('/bin/bash', ['-c', script], {
    cols: 80,
    rows: 24,
    env: { PATH: process.env.PATH ?? '', TERM: 'xterm', ...env },
  });
  const kill = pty.kill.bind(pty);
  let output = '';
  pty.onData((data) => {
    output += data;
  });
  const { promise: exited, resolve } = Promise.withResolvers<number>();
  pty.onExit(({ exitCode }) => resolve(exitCode));
  return {
    pid: pty.pid,
    exited,
    output: () => output,
    type: (text) => pty.write(text),
    resize: (columns, rows) => pty.resize(columns, rows),
    hangUp: () => {
      // It would send another SIGHUP besides the kernel's.
      pty.kill = () => undefined;
      // Missing in its types: closes the master side.
      if ('destroy' in pty && typeof pty.destroy === 'function') pty.destroy();
    },
    [Symbol.dispose]: () => kill('SIGKILL'),
  };
}

/** Resolves when the condition holds. Throws after 30 s. */
export async function eventually(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + WAIT_MS;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`Not within ${WAIT_MS} ms: ${what}.`);
    await delay(20);
  }
}
