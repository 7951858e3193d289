import { constants } from 'node:os';
import { ReadStream } from 'node:tty';
import { Code, ConnectError } from '@connectrpc/connect';
import { endBySignal, endByStatus } from './end-status.ts';
import type { ChannelEvents, ProcessChannel, TerminalSize } from './guest-process.ts';
import { type Launcher, type LaunchRequest, launchError } from './launcher.ts';
import { writeTo } from './pipe-channel.ts';

/** The native half of node-pty. Its JavaScript half drops the output that is unread 200 ms after the exit. */
interface NativePty {
  fork(
    file: string,
    args: readonly string[],
    env: readonly string[],
    cwd: string,
    cols: number,
    rows: number,
    uid: number,
    gid: number,
    utf8: boolean,
    helperPath: string,
    onExit: (code: number, signal: number) => void,
  ): { readonly fd: number; readonly pid: number; readonly pty: string };
  resize(fd: number, cols: number, rows: number): void;
}

let native: NativePty | undefined;

/** Loads the native code on first use: a guest that opens no terminal does not pay for it. */
export async function loadPty(): Promise<void> {
  if (native !== undefined) return;
  const { requireBinary } = await import('@lydell/node-pty/requireBinary.js');
  native = requireBinary('pty.node') as NativePty;
}

/**
 * Starts a program on a terminal of its own, as the controlling one. {@link loadPty}
 * must have been awaited.
 */
export function openPty(
  launcher: Launcher,
  request: LaunchRequest,
  size: TerminalSize,
  events: ChannelEvents,
): ProcessChannel {
  const addon = native;
  if (addon === undefined) throw new Error('loadPty() was not awaited');
  const { program, args, cwd, env, user } = request;
  const pairs = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  const { fd, pid } = launcher.asUser(user, () => {
    try {
      return addon.fork(
        program,
        args,
        pairs,
        cwd,
        size.cols,
        size.rows,
        -1,
        -1,
        true,
        '',
        (code, signal) => events.onExit(endOf(code, signal)),
      );
    } catch (error) {
      throw launchError(request, error);
    }
  });
  launcher.admit(pid);
  const terminal = new ReadStream(fd);
  terminal.on('data', (bytes: Buffer) => events.onOutput('pty', bytes));
  // Reading a terminal whose other side nobody holds any more fails with EIO: that is its end.
  terminal.on('error', () => terminal.destroy());
  terminal.on('close', () => events.onOutputClosed());
  return {
    pid,
    kind: 'pty',
    setOutputPaused(paused) {
      if (paused) terminal.pause();
      else terminal.resume();
    },
    write: (bytes) => writeTo(terminal, bytes),
    closeInput() {
      throw new ConnectError(
        `process ${pid} has a terminal: send Ctrl-D (0x04) to end its input`,
        Code.FailedPrecondition,
      );
    },
    resize({ cols, rows }) {
      if (!terminal.destroyed) addon.resize(fd, cols, rows);
    },
    release() {
      // Hangs up: whoever still holds the terminal gets SIGHUP.
      terminal.destroy();
    },
  };
}

function endOf(code: number, signal: number) {
  if (signal === 0) return endByStatus(code);
  const name = Object.entries(constants.signals).find(([, number]) => number === signal)?.[0];
  return endBySignal((name ?? 'SIGKILL') as NodeJS.Signals);
}
