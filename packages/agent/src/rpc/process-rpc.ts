import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import { type hostAgent, TorporError } from '@torpor/protocol';
import { connectProgram, type ProcessSelector } from '../guest/process-events.ts';
import { killProcess, listProcesses, sendInput, streamInput } from '../guest/processes.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import { streamMessage } from './stream-message.ts';

type Methods = Pick<
  ServiceImpl<typeof hostAgent.HostAgentService>,
  'listProcesses' | 'killProcess' | 'connectProcess' | 'sendProcessInput' | 'streamProcessInput'
>;

/** The calls about running processes of a guest. */
export function processRpc(registry: SandboxRegistry): Methods {
  return {
    async listProcesses({ sandboxId, includeExited }, { signal }) {
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      const processes = await listProcesses(guest, { includeExited, signal });
      return { processes: processes.map((entry) => ({ ...entry, args: [...entry.args] })) };
    },

    async killProcess({ sandboxId, selector, signal: name = 'SIGKILL' }, { signal }) {
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      await killProcess(guest, selected(selector), name, { signal });
      return {};
    },

    async *connectProcess({ sandboxId, selector }, context: HandlerContext) {
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      const events = connectProgram(guest, selected(selector), { signal: context.signal });
      for await (const event of events) {
        const message = streamMessage(event);
        if (message !== undefined) yield message;
      }
    },

    async sendProcessInput({ sandboxId, selector, data, end }, { signal }) {
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      await sendInput(guest, selected(selector), { data, end }, { signal });
      return {};
    },

    async streamProcessInput(messages, { signal }) {
      const iterator = messages[Symbol.asyncIterator]();
      const first = await iterator.next();
      const content = first.done ? undefined : first.value.content;
      if (content?.case !== 'start') {
        throw new TorporError('invalid_request', 'The first message must name the process.');
      }
      const { sandboxId, selector } = content.value;
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      await streamInput(guest, selected(selector), inputPieces(iterator), { signal });
      return {};
    },
  };
}

/** What follows the first message. */
async function* inputPieces(
  messages: AsyncIterator<hostAgent.StreamProcessInputRequest>,
): AsyncGenerator<Uint8Array | 'close', void> {
  for (;;) {
    const next = await messages.next();
    if (next.done) return;
    const { content } = next.value;
    if (content.case === 'data') yield content.value;
    else if (content.case === 'close') return yield 'close';
    else throw new TorporError('invalid_request', 'After the first message only input may follow.');
  }
}

function selected(
  selector: ProcessSelector | { readonly case: undefined; readonly value?: undefined },
): ProcessSelector {
  if (selector.case !== undefined) return selector;
  throw new TorporError('invalid_request', 'Say which process is meant: by its pid or its tag.');
}
