import { type hostAgent, rest, TorporError } from '@torpor/protocol';
import { TextPieces } from '../guest/text.ts';
import type { FrameSocket } from './socket.ts';

/**
 * Sends the events of a process to a client, as fast as the client takes them.
 * Resolves after the exit; throws `guest_unreachable` at the end of the stream if there was none.
 */
export async function forwardProcessEvents(
  socket: FrameSocket,
  events: AsyncIterable<hostAgent.ExecStreamResponse>,
  onStart: (pid: number) => void,
  options: { readonly binary?: boolean } = {},
): Promise<void> {
  const stdout = new TextPieces();
  const stderr = new TextPieces();
  const sendPiece = async (type: 'stdout' | 'stderr', piece: ReturnType<TextPieces['flush']>) => {
    if (piece !== undefined) await socket.send({ type, ...piece });
  };
  for await (const { event } of events) {
    if (event.case === 'start') {
      onStart(event.value.pid);
      await socket.send({ type: 'start', pid: event.value.pid });
    } else if (event.case === 'data') {
      const { output } = event.value;
      if (options.binary) {
        const kind = rest.OUTPUT_STREAMS[output.case === 'stderr' ? 'stderr' : 'stdout'];
        await socket.sendBytes(kind, output.value ?? new Uint8Array());
      } else if (output.case === 'stderr') await sendPiece('stderr', stderr.push(output.value));
      else if (output.case !== undefined) await sendPiece('stdout', stdout.push(output.value));
    } else if (event.case === 'end') {
      await sendPiece('stdout', stdout.flush());
      await sendPiece('stderr', stderr.flush());
      await socket.send({
        type: 'exit',
        exit_code: event.value.exitCode,
        ...(event.value.error === undefined ? {} : { error: event.value.error }),
      });
      return;
    }
  }
  if (!socket.closed.aborted) {
    throw new TorporError(
      'guest_unreachable',
      'The stream of the process ended before the process exited.',
    );
  }
}
