import type { MessageInitShape } from '@bufbuild/protobuf';
import type { hostAgent } from '@torpor/protocol';
import { type ProcessEvent, programEnd } from '../guest/process-events.ts';

/** An event of a program as a message of the RPCs that stream it; undefined for one that is not sent. */
export function streamMessage(
  event: ProcessEvent,
): MessageInitShape<typeof hostAgent.ExecStreamResponseSchema> | undefined {
  switch (event.case) {
    case 'start':
      return { event: { case: 'start', value: { pid: event.value.pid } } };
    case 'data':
      return { event: { case: 'data', value: { output: event.value.output } } };
    case 'keepalive':
      return { event: { case: 'keepalive', value: {} } };
    case 'end':
      return { event: { case: 'end', value: programEnd(event.value) } };
    case undefined:
      return undefined;
  }
}
