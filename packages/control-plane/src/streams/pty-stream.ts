import { rest, TorporError } from '@torpor/protocol';
import { exitFrame } from './output.ts';
import type { Session } from './session.ts';
import { whileConnected } from './while-connected.ts';

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
  const { promise: ready, resolve: setTag } = Promise.withResolvers<string>();
  await whileConnected((signal) => [
    forwardOutput(session, first, signal, setTag),
    forwardInput(session, ready),
  ]);
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
  for await (const event of events) {
    if (event.type === 'started') {
      const { tag, pid } = event;
      onReady(tag);
      await socket.send({ type: 'started', tag, pid });
    } else if (event.type === 'output') {
      const data = Buffer.from(event.data).toString('base64');
      await socket.send({ type: 'output', data });
    } else {
      await socket.send(exitFrame(event));
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
