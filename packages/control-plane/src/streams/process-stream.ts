import { rest } from '@torpor/protocol';
import type { ProcessSelector } from '../guest/program.ts';
import { forwardProcessEvents } from './output.ts';
import type { Session } from './session.ts';
import { whileConnected } from './while-connected.ts';

/** `…/processes/{selector}/stream`: attaches to a running process, which keeps running when the client disconnects. */
export async function serveProcessStream(
  session: Session,
  selector: ProcessSelector,
): Promise<void> {
  const { socket, processes } = session;
  socket.keepAlive(rest.WEBSOCKET_PING_INTERVAL_MS);
  await whileConnected((signal) => [
    forwardProcessEvents(socket, processes.connect(selector, signal), () => undefined),
    forwardInput(session, selector),
  ]);
}

async function forwardInput(
  { socket, processes }: Session,
  selector: ProcessSelector,
): Promise<void> {
  for (;;) {
    const frame = await socket.receive(rest.processClientFrameSchema);
    if (frame === undefined) return;
    const end = frame.type === 'stdin_close';
    const data = end ? new Uint8Array() : Buffer.from(frame.data, 'base64');
    await processes.sendInput(selector, data, end);
  }
}
