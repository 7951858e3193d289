import { rest, TorporError } from '@torpor/protocol';
import type { Selector } from '../guest/processes.ts';
import { forwardProcessEvents } from './output.ts';
import type { Session } from './server.ts';

/** `…/processes/{selector}/stream`: attaches to a process that runs. It goes on when the client hangs up. */
export async function serveProcessStream(session: Session, selector: Selector): Promise<void> {
  const { socket, sandboxId, processes } = session;
  socket.keepAlive(rest.WEBSOCKET_PING_INTERVAL_MS);
  const abort = new AbortController();
  const output = forwardProcessEvents(
    socket,
    processes.connect(sandboxId, selector, abort.signal),
    () => undefined,
  );
  const input = (async () => {
    for (;;) {
      const frame = await socket.receive(rest.processClientFrameSchema);
      if (frame === undefined) return;
      const end = frame.type === 'stdin_close';
      const data = end ? new Uint8Array() : Buffer.from(frame.data, 'base64');
      await processes.sendInput(sandboxId, selector, data, end);
    }
  })();
  try {
    await Promise.race([output, input]);
  } finally {
    abort.abort(new TorporError('conflict', 'The client has hung up.'));
    input.catch(() => undefined);
    output.catch(() => undefined);
  }
}
