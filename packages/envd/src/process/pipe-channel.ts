import type { Socket } from 'node:net';
import { Code, ConnectError } from '@connectrpc/connect';
import { exitBySignal, exitByStatus } from './exit-status.ts';
import type { ChannelEvents, ProcessChannel } from './guest-process.ts';
import type { LaunchedPipes } from './launcher.ts';

/** A process on three pipes. */
export function openPipes(
  { child, pid, explainExit, stdin, stdout, stderr }: LaunchedPipes,
  events: ChannelEvents,
): ProcessChannel {
  let open = 2;
  for (const [kind, stream] of [
    ['stdout', stdout],
    ['stderr', stderr],
  ] as const) {
    stream.on('data', (bytes: Buffer) => events.onOutput(kind, bytes));
    stream.on('error', () => stream.destroy());
    stream.on('close', () => {
      open -= 1;
      if (open === 0) events.onOutputClosed();
    });
  }
  // A broken pipe is reported to the writer.
  stdin?.on('error', () => undefined);
  child.on('exit', (code, signal) => {
    stdin?.destroy();
    events.onExit(explainExit(signal === null ? exitByStatus(code ?? 0) : exitBySignal(signal)));
  });
  return {
    pid,
    kind: 'pipes',
    setOutputPaused(paused) {
      for (const stream of [stdout, stderr]) {
        if (paused) stream.pause();
        else stream.resume();
      }
    },
    write: (bytes) => writeTo(stdin, bytes),
    closeInput: () => closeWritable(stdin),
    resize() {
      throw new ConnectError(`process ${pid} has no terminal`, Code.FailedPrecondition);
    },
    release() {
      // A descendant may keep writing; its output is read and dropped so that it does not
      // block, and must not keep the daemon alive.
      for (const stream of [stdout, stderr]) {
        stream.removeAllListeners('data');
        stream.resume();
        stream.unref();
      }
    },
  };
}

/** Writes and waits until the kernel has accepted the bytes. */
export function writeTo(socket: Socket | undefined, bytes: Uint8Array): Promise<void> {
  if (socket === undefined || !socket.writable) {
    throw new ConnectError('stdin is not enabled or is closed', Code.FailedPrecondition);
  }
  return new Promise((resolve, reject) => {
    socket.write(bytes, (error) => {
      if (error == null) resolve();
      else {
        reject(
          new ConnectError(
            'the process has closed its stdin',
            Code.FailedPrecondition,
            undefined,
            undefined,
            error,
          ),
        );
      }
    });
  });
}

function closeWritable(socket: Socket | undefined): Promise<void> {
  if (socket === undefined || !socket.writable) return Promise.resolve();
  // The kernel has accepted all writes, so nothing is lost.
  return new Promise((resolve) => {
    socket.once('close', () => resolve());
    socket.destroy();
  });
}
