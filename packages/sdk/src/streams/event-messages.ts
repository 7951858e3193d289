import { TorporError } from '@torpor/protocol/basics';
import * as rest from '@torpor/protocol/rest';
import { createParser } from 'eventsource-parser';

const MAX_MESSAGE_CHARS = 1024 * 1024;

/** A place in the stream, and the event there if it is one of those that were asked for. */
export interface Message {
  readonly id: string;
  readonly event?: rest.Event;
}

/** The messages of a stream in the format of the HTML standard, section "Server-sent events". Throws `not_found` for a gap. */
export async function* messagesOf(chunks: AsyncIterable<string>): AsyncGenerator<Message, void> {
  const received: Message[] = [];
  let gap: TorporError | undefined;
  const parser = createParser({
    maxBufferSize: MAX_MESSAGE_CHARS,
    onId: (id) => received.push({ id }),
    onEvent({ event: type, data }) {
      if (type === 'gap') gap = noLongerKept(rest.eventGapSchema.parse(JSON.parse(data)).oldest);
      else received.push(messageOf(rest.eventSchema.parse(JSON.parse(data))));
    },
  });
  for await (const chunk of chunks) {
    parser.feed(chunk);
    if (gap !== undefined) throw gap;
    yield* received.splice(0);
  }
}

function messageOf(event: rest.Event): Message {
  return { id: event.id, event };
}

function noLongerKept(oldest: string): TorporError {
  return new TorporError('not_found', 'Events that were asked for are no longer kept.', {
    remedy: `Read the present state, and follow the events after ${BigInt(oldest) - 1n}.`,
  });
}
