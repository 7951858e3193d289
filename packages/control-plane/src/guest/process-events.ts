/** What a followed process or terminal reports, in the order in which it happens. */
import type { hostAgent } from '@torpor/protocol';

/** How a process exited. */
export interface Exit {
  readonly exitCode: number;
  /** What the exit code does not say: `signal: killed`. */
  readonly status?: string;
}

export type ProcessEvent =
  | { readonly type: 'started'; readonly pid: number }
  | {
      readonly type: 'output';
      readonly stream: 'stdout' | 'stderr';
      readonly data: Uint8Array;
    }
  | ({ readonly type: 'exited' } & Exit);

export type TerminalEvent =
  | { readonly type: 'started'; readonly tag: string; readonly pid: number }
  | { readonly type: 'output'; readonly data: Uint8Array }
  | ({ readonly type: 'exited' } & Exit);

/** Leaving the iteration early cancels the call. */
export async function* processEvents(
  messages: AsyncIterable<hostAgent.ExecStreamResponse>,
): AsyncGenerator<ProcessEvent> {
  for await (const { event } of messages) {
    if (event.case === 'start') yield { type: 'started', pid: event.value.pid };
    else if (event.case === 'end') yield { type: 'exited', ...exitOf(event.value) };
    else if (event.case === 'data' && event.value.output.case !== undefined) {
      const { case: kind, value: data } = event.value.output;
      yield { type: 'output', stream: kind === 'stderr' ? 'stderr' : 'stdout', data };
    }
  }
}

/** Leaving the iteration early cancels the call. */
export async function* terminalEvents(
  messages: AsyncIterable<hostAgent.PtyAttachResponse>,
): AsyncGenerator<TerminalEvent> {
  for await (const { event } of messages) {
    if (event.case === 'started') {
      const { tag, pid } = event.value;
      yield { type: 'started', tag, pid };
    } else if (event.case === 'output') yield { type: 'output', data: event.value.data };
    else if (event.case === 'exited') yield { type: 'exited', ...exitOf(event.value) };
  }
}

export function exitOf({
  exitCode,
  error,
}: Pick<hostAgent.ExecStreamResponse_End, 'exitCode' | 'error'>): Exit {
  return { exitCode, ...(error === undefined ? {} : { status: error }) };
}
