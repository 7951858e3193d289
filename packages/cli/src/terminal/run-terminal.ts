import { spawnSync } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { PtyOptions, PtySession, Sandbox, TerminalSize } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import { EXIT, exitCodeOfProgram } from '../exit-codes.ts';
import { type Io, OutputClosed } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import { reportExhaustion } from '../output/report-exhaustion.ts';
import type { TerminationSignal } from '../termination-signals.ts';
import { SignalRelay } from './signal-relay.ts';

const RECONNECT_INTERVAL_MS = 1000;
const RECONNECT_ATTEMPTS = 30;
const KILL_TIMEOUT_MS = 5000;
const END_OF_INPUT_INTERVAL_MS = 1000;

export interface TerminalOptions
  extends Pick<PtyOptions, 'cmd' | 'args' | 'cwd' | 'user' | 'envs'> {
  /** Maps a termination signal to us to one for the program; the same signal if omitted. */
  readonly passOn?: (signal: TerminationSignal) => TerminationSignal;
}

/**
 * Connects our terminal with a program on a terminal in the sandbox, and returns
 * the exit status. Ours is in raw mode meanwhile, so that every key is passed on, and
 * always restored. If the connection is lost, the program keeps running, and we
 * reconnect to it.
 */
export async function runTerminal(
  io: Io,
  sandbox: Sandbox,
  { passOn, ...options }: TerminalOptions,
): Promise<number> {
  await using resources = new AsyncDisposableStack();
  // The terminal can be closed at any time; a SIGHUP follows.
  io.stdin.on('error', () => undefined);
  // In raw mode Ctrl-C is a key: a signal is from another process, or our input is not a terminal.
  const signals = resources.use(new SignalRelay(io, sandbox, passOn));
  const size = terminalSize(io);
  const opening = sandbox.pty({
    ...options,
    envs: { ...terminalEnvironment(io), ...options.envs },
    size,
  });
  let isAbandoned = false;
  const abandoned = signals.abandoned.then(() => {
    isAbandoned = true;
  });
  const opened = await Promise.race([opening, abandoned]);
  if (opened === undefined) {
    void opening.then((late) => abandon(sandbox, late)).catch(() => undefined);
    return signals.exitCode(undefined) ?? EXIT.ok;
  }
  let session = opened;
  signals.started(session.pid);
  void abandoned.then(() => session[Symbol.asyncDispose]());
  resources.defer(() => session[Symbol.asyncDispose]());
  resources.defer(makeRaw(io));
  const resize = () => void session.resize(terminalSize(io)).catch(() => undefined);
  resources.defer(io.onResize(resize));
  // It may have changed while the program was being started.
  if (!isDeepStrictEqual(terminalSize(io), size)) resize();
  resources.defer(forwardKeys(io, (keys) => session.write(keys)));
  const print = async (data: Buffer) => {
    try {
      await signals.print(io.stdout, data);
    } catch (reason) {
      await abandon(sandbox, session);
      throw reason;
    }
  };

  for (;;) {
    try {
      for await (const data of session.output()) await print(data);
      const exit = await session.wait();
      reportExhaustion(io, exit);
      const status = exitCodeOfProgram(exit);
      return signals.exitCode(status) ?? status;
    } catch (reason) {
      if (isAbandoned) {
        await abandon(sandbox, session);
        return signals.exitCode(undefined) ?? EXIT.ok;
      }
      if (reason instanceof OutputClosed) throw reason;
      const error = TorporError.from(reason);
      if (error.code !== 'host_unavailable') throw error;
      const { tag } = session;
      await session[Symbol.asyncDispose]();
      const found = await Promise.race([reconnect(io, sandbox, tag), abandoned]);
      if (found === undefined) return signals.exitCode(undefined) ?? EXIT.ok;
      session = found;
      await session.resize(terminalSize(io));
    }
  }
}

/** Passes our input on as typed keys, until the returned function is called. */
function forwardKeys(io: Io, type: (keys: Buffer | string) => Promise<void>): () => void {
  const onInput = (chunk: Buffer) => {
    io.stdin.pause();
    type(chunk).then(
      () => io.stdin.resume(),
      () => io.stdin.resume(),
    );
  };
  // The end of file of a pipe is Ctrl-D on a terminal. A program that is just setting up its
  // terminal loses it, so it is typed again for the next reader.
  let typingEnd: NodeJS.Timeout | undefined;
  const typeEnd = () => void type('\x04').catch(() => undefined);
  const onEnd = () => {
    typeEnd();
    typingEnd = setInterval(typeEnd, END_OF_INPUT_INTERVAL_MS);
  };
  io.stdin.on('data', onInput);
  io.stdin.on('end', onEnd);
  return () => {
    io.stdin.off('data', onInput);
    io.stdin.off('end', onEnd);
    clearInterval(typingEnd);
    io.stdin.pause();
  };
}

/** Kills a program that cannot be connected to again, because its tag was never shown. */
async function abandon(sandbox: Sandbox, session: PtySession): Promise<void> {
  const signal = AbortSignal.timeout(KILL_TIMEOUT_MS);
  await sandbox.processes.kill(session.pid, { signal }).catch(() => undefined);
}

/**
 * Sets raw mode if our input is a terminal, and again after we were stopped and continued.
 * Returns a function that restores the mode; so does the exit of the process.
 */
function makeRaw(io: Io): () => void {
  if (!io.stdin.isTTY || io.stdin.setRawMode === undefined) return () => undefined;
  const restore = () => void io.stdin.setRawMode?.(false);
  process.once('exit', restore);
  setRaw(io);
  const unsubscribe = io.onSuspend({ suspend: restore, resume: () => setRaw(io) });
  return () => {
    unsubscribe();
    restore();
    process.off('exit', restore);
  };
}

function setRaw(io: Io): void {
  io.stdin.setRawMode?.(true);
  // Node's raw mode still converts line feeds to new lines, which the terminal in the sandbox has
  // already done; full-screen programs rely on a plain line feed.
  if (io.stdin.fd !== undefined) {
    spawnSync('stty', ['-opost'], { stdio: [io.stdin.fd, 'ignore', 'ignore'] });
  }
}

async function reconnect(io: Io, sandbox: Sandbox, tag: string): Promise<PtySession> {
  printStatus(io, 'connection lost; reconnecting\r');
  for (let attempt = 1; ; attempt++) {
    await delay(RECONNECT_INTERVAL_MS);
    try {
      return await sandbox.connectPty(tag);
    } catch (reason) {
      const error = TorporError.from(reason);
      if (error.code !== 'host_unavailable' || attempt === RECONNECT_ATTEMPTS) throw error;
    }
  }
}

/** The size of the output that is a terminal; the other may be redirected. */
function terminalSize({ stdout, stderr }: Io): TerminalSize {
  const { columns, rows } = [stdout, stderr].find(({ isTTY }) => isTTY) ?? {};
  return { cols: columns || 80, rows: rows || 24 };
}

function terminalEnvironment({ env }: Io): Record<string, string> {
  const { TERM, COLORTERM } = env;
  return {
    // A guest has only the descriptions of the common terminals.
    TERM:
      TERM !== undefined && /^(xterm|screen|tmux|linux|vt100)/.test(TERM) ? TERM : 'xterm-256color',
    ...(COLORTERM === undefined ? {} : { COLORTERM }),
  };
}
