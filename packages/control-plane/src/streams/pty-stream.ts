import { rest, TorporError } from '@torpor/protocol';
import type { Session } from './session.ts';

/** `…/pty`: starts a PTY or connects to one, which stays open when the client disconnects. */
export async function servePty(session: Session): Promise<void> {
  const { socket } = session;
  const first = await socket.receive(rest.ptyClientFrameSchema);
  if (first === undefined) return;
  if (first.type !== 'start' && first.type !== 'connect') {
    throw new TorporError(
      'invalid_request',
      'The first frame must be of type "start" or "connect".',
    );
  }
  socket.keepAlive(rest.WEBSOCKET_PING_INTERVAL_MS, () => void socket.send({ type: 'ping' }));
  const abort = new AbortController();
  const { promise: ready, resolve: setTag } = Promise.withResolvers<string>();
  const output = forwardOutput(session, first, abort.signal, setTag);
  const input = forwardInput(session, ready);
  try {
    await Promise.race([output, input]);
  } finally {
    abort.abort(new TorporError('conflict', 'The client disconnected.'));
    input.catch(() => undefined);
    output.catch(() => undefined);
  }
}

type FirstFrame = Extract<rest.PtyClientFrame, { type: 'start' | 'connect' }>;

async function forwardOutput(
  { socket, processes }: Session,
  first: FirstFrame,
  signal: AbortSignal,
  onReady: (tag: string) => void,
): Promise<void> {
  const events =
    first.type === 'connect'
      ? processes.connectTerminal(first.tag, signal)
      : processes.startTerminal(first, first, signal);
  for await (const { event } of events) {
    if (event.case === 'started') {
      const { tag, pid } = event.value;
      onReady(tag);
      await socket.send({ type: 'started', tag, pid });
    } else if (event.case === 'output') {
      const data = Buffer.from(event.value.data).toString('base64');
      await socket.send({ type: 'output', data });
    } else if (event.case === 'exited') {
      const { exitCode, error } = event.value;
      await socket.send({
        type: 'exit',
        exit_code: exitCode,
        ...(error === undefined ? {} : { error }),
      });
      return;
    }
  }
  if (!socket.closed.aborted) {
    throw new TorporError(
      'guest_unreachable',
      'The stream of the terminal ended before its program exited.',
    );
  }
}

/** Forwards one frame after the other, in order; none is dropped. */
async function forwardInput({ socket, processes }: Session, ready: Promise<string>): Promise<void> {
  for (;;) {
    const frame = await socket.receive(rest.ptyClientFrameSchema);
    if (frame === undefined) return;
    const tag = await ready;
    switch (frame.type) {
      case 'input':
        await processes.sendTerminalInput(tag, Buffer.from(frame.data, 'base64'));
        break;
      case 'resize':
        await processes.resizeTerminal(tag, frame);
        break;
      case 'kill':
        await processes.killTerminal(tag);
        break;
      default:
        throw new TorporError('invalid_request', 'This terminal has already been started.');
    }
  }
}
