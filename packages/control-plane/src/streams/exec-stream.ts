import { setTimeout as delay } from 'node:timers/promises';
import { rest, TorporError } from '@torpor/protocol';
import { forwardProcessEvents } from './output.ts';
import type { Session } from './server.ts';
import type { FrameSocket } from './socket.ts';

/** How long a program that nobody waits for any more may take to start, before it is given up unkilled. */
const START_PATIENCE_MS = 10_000;

/** What the guest says of input for a program that has closed it, or has exited. */
const INPUT_CLOSED: ReadonlySet<string> = new Set(['invalid_request', 'not_found']);

/** `…/exec/stream`: runs one program; it is killed when the client says stop or hangs up. */
export async function serveExecStream(session: Session): Promise<void> {
  const { socket, sandboxId, processes } = session;
  const start = await socket.receive(rest.execClientFrameSchema);
  if (start === undefined) return;
  if (start.type !== 'start') {
    throw new TorporError('invalid_request', 'The first frame must be of type "start".');
  }
  socket.acceptsBinary = start.binary;
  socket.keepAlive(rest.WEBSOCKET_PING_INTERVAL_MS);
  const abort = new AbortController();
  const { promise: started, resolve: setPid } = Promise.withResolvers<number>();
  const kill = async () => {
    const pid = await started;
    await processes
      .signal(sandboxId, { case: 'pid', value: pid }, 'SIGKILL')
      .catch((reason: unknown) => {
        if (TorporError.from(reason).code !== 'not_found') throw reason;
      });
  };

  const output = forwardProcessEvents(
    socket,
    processes.execStream(
      {
        sandboxId,
        cmd: start.cmd,
        args: start.args,
        timeoutSec: start.timeout_sec,
        envs: start.envs ?? {},
        cwd: start.cwd ?? '',
        user: start.user ?? '',
        stdin: start.stdin,
        tag: start.tag ?? '',
      },
      abort.signal,
    ),
    setPid,
    { binary: start.binary },
  );
  let refused = false;
  const next = () =>
    nextInput(socket, start.stdin, kill).catch((reason: unknown) => {
      refused = true;
      throw reason;
    });
  const input = (async () => {
    for (let first = await next(); first !== undefined; first = await next()) {
      const selector = { case: 'pid', value: await started } as const;
      const pieces = untilClosed(first, next);
      await processes.streamInput(sandboxId, selector, pieces, abort.signal).catch((reason) => {
        // As in a pipeline, a program that reads no more is judged by its status alone.
        if (refused || !INPUT_CLOSED.has(TorporError.from(reason).code)) throw reason;
      });
    }
  })();
  const { promise: hungUp, resolve: setHungUp } = Promise.withResolvers<void>();
  socket.closed.addEventListener('abort', () => setHungUp());

  // Whichever ends first decides: the program, the client, or an error of either.
  let finished = false;
  try {
    await Promise.race([
      output.then(() => {
        finished = true;
      }),
      input,
      hungUp,
    ]);
  } finally {
    if (!finished) {
      // First the kill: an aborted stream would not tell the pid any more.
      await Promise.race([
        kill(),
        output,
        delay(START_PATIENCE_MS, undefined, { ref: false }),
      ]).catch(() => undefined);
      abort.abort(new TorporError('conflict', 'The client has hung up.'));
    }
    input.catch(() => undefined);
    output.catch(() => undefined);
  }
}

type Input = Uint8Array | 'close';

/** What the client sends next for the program; undefined once it has hung up. A `stop` is obeyed on the way. */
async function nextInput(
  socket: FrameSocket,
  hasStdin: boolean,
  kill: () => Promise<void>,
): Promise<Input | undefined> {
  for (;;) {
    const frame = await socket.receiveAny(rest.execClientFrameSchema);
    if (frame === undefined) return undefined;
    if (!Buffer.isBuffer(frame)) {
      if (frame.type === 'start') {
        throw new TorporError('invalid_request', 'The program has been started already.');
      }
      if (frame.type === 'stop') {
        await kill();
        continue;
      }
    }
    if (!hasStdin) {
      throw new TorporError('invalid_request', 'The program was started without stdin.');
    }
    if (Buffer.isBuffer(frame)) return frame;
    return frame.type === 'stdin_close' ? 'close' : Buffer.from(frame.data, 'base64');
  }
}

async function* untilClosed(
  first: Input,
  next: () => Promise<Input | undefined>,
): AsyncGenerator<Input, void> {
  for (let piece: Input | undefined = first; piece !== undefined; piece = await next()) {
    yield piece;
    if (piece === 'close') return;
  }
}
