import { rest, TorporError } from '@torpor/protocol';
import type { Exit, ProcessEvent } from '../guest/process-events.ts';
import { TextPieces } from '../guest/text.ts';
import type { FrameSocket } from './socket.ts';

/**
 * Sends the events of a process to a client, as fast as the client takes them.
 * Resolves after the exit; throws `guest_unreachable` at the end of the stream if there was none.
 */
export async function forwardProcessEvents(
  socket: FrameSocket,
  events: AsyncIterable<ProcessEvent>,
  onStart: (pid: number) => void,
  { binary = false }: { readonly binary?: boolean } = {},
): Promise<void> {
  const text = { stdout: new TextPieces(), stderr: new TextPieces() };
  const sendText = async (stream: keyof typeof text, piece: ReturnType<TextPieces['flush']>) => {
    if (piece !== undefined) await socket.send({ type: stream, ...piece });
  };
  for await (const event of events) {
    if (event.type === 'started') {
      onStart(event.pid);
      await socket.send({ type: 'start', pid: event.pid });
    } else if (event.type === 'exited') {
      await sendText('stdout', text.stdout.flush());
      await sendText('stderr', text.stderr.flush());
      await socket.send(exitFrame(event));
      return;
    } else if (binary) {
      await socket.sendBytes(rest.OUTPUT_STREAMS[event.stream], event.data);
    } else {
      await sendText(event.stream, text[event.stream].push(event.data));
    }
  }
  if (!socket.closed.aborted) {
    throw new TorporError(
      'guest_unreachable',
      'The stream of the process ended before the process exited.',
    );
  }
}

export function exitFrame({ exitCode, status }: Exit) {
  return {
    type: 'exit' as const,
    exit_code: exitCode,
    ...(status === undefined ? {} : { error: status }),
  };
}
