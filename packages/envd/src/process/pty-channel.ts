import { ReadStream } from 'node:tty';
import { Code, ConnectError } from '@connectrpc/connect';
import { resizeTerminal } from '@torpor/linux';
import { exitBySignal, exitByStatus } from './exit-status.ts';
import type { ChannelEvents, ProcessChannel, TerminalSize } from './guest-process.ts';
import type { Launcher, LaunchRequest } from './launcher.ts';
import { writeTo } from './pipe-channel.ts';

/**
 * Starts a program on a terminal of its own, as the controlling one. Throws what
 * {@link Launcher.startOnTerminal} throws.
 */
export function openPty(
  launcher: Launcher,
  request: LaunchRequest,
  size: TerminalSize,
  events: ChannelEvents,
): ProcessChannel {
  const { explainExit, pid, masterFd } = launcher.startOnTerminal(request, size, (exit) =>
    events.onExit(
      explainExit(
        exit.signal === undefined
          ? exitByStatus(exit.exitCode ?? 0)
          : exitBySignal(exit.signal as NodeJS.Signals),
      ),
    ),
  );
  const terminal = new ReadStream(masterFd);
  terminal.on('data', (bytes: Buffer) => events.onOutput('pty', bytes));
  // Reading a terminal whose other side is closed everywhere fails with EIO: the end of its output.
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
    resize(window) {
      if (!terminal.destroyed) resizeTerminal(masterFd, window);
    },
    release() {
      // Hangs up: a process that still has the terminal open gets SIGHUP.
      terminal.destroy();
    },
  };
}
