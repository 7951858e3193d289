import { rest, TorporError } from '@torpor/protocol';
import type { ProcessSelector } from '../guest/program.ts';
import { forwardProcessEvents } from './output.ts';
import type { Session } from './session.ts';

/** `…/processes/{selector}/stream`: attaches to a running process, which keeps running when the client disconnects. */
export async function serveProcessStream(
  { socket, processes }: Session,
  selector: ProcessSelector,
): Promise<void> {
  socket.keepAlive(rest.WEBSOCKET_PING_INTERVAL_MS);
  const abort = new AbortController();
  const output = forwardProcessEvents(
    socket,
    processes.connect(selector, abort.signal),
    () => undefined,
  );
  const input = (async () => {
    for (;;) {
      const frame = await socket.receive(rest.processClientFrameSchema);
      if (frame === undefined) return;
      const end = frame.type === 'stdin_close';
      const data = end ? new Uint8Array() : Buffer.from(frame.data, 'base64');
      await processes.sendInput(selector, data, end);
    }
  })();
  try {
    await Promise.race([output, input]);
  } finally {
    abort.abort(new TorporError('conflict', 'The client disconnected.'));
    input.catch(() => undefined);
    output.catch(() => undefined);
  }
}
