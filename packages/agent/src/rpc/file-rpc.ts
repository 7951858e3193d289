import type { ServiceImpl } from '@connectrpc/connect';
import { type hostAgent, TorporError } from '@torpor/protocol';
import { coalesce } from '../guest/coalesce.ts';
import { listDirectory, makeDirectory, removePath } from '../guest/files.ts';
import type { SandboxRegistry } from '../registry/registry.ts';

type Methods = Pick<
  ServiceImpl<typeof hostAgent.HostAgentService>,
  'writeFileStream' | 'readFileStream' | 'listDir' | 'makeDir' | 'removePath'
>;

const READ_CHUNK_BYTES = 256 * 1024;

/** The calls about files in a guest. Contents are streamed both ways, never buffered as a whole. */
export function fileRpc(registry: SandboxRegistry): Methods {
  return {
    async writeFileStream(messages, { signal }) {
      const iterator = messages[Symbol.asyncIterator]();
      const first = await iterator.next();
      const content = first.done ? undefined : first.value.content;
      if (content?.case !== 'meta') {
        throw new TorporError('invalid_request', 'The first message must name the file.');
      }
      const { sandboxId, path, user } = content.value;
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      await guest.writeFile({ path: required(path), user }, chunks(iterator, signal), signal);
      return {};
    },

    async *readFileStream({ sandboxId, path, user }, { signal }) {
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      const content = guest.readFile({ path: required(path), user }, signal);
      for await (const chunk of coalesce(content, READ_CHUNK_BYTES)) yield { chunk };
    },

    async listDir({ sandboxId, path, depth, user }, { signal }) {
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      return { entries: await listDirectory(guest, path, depth, { user, signal }) };
    },

    async makeDir({ sandboxId, path, user }, { signal }) {
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      const entry = await makeDirectory(guest, required(path), { user, signal });
      return entry === undefined ? {} : { entry };
    },

    async removePath({ sandboxId, path, user }, { signal }) {
      using lease = await registry.use(sandboxId);
      const { guest } = lease;
      await removePath(guest, required(path), { user, signal });
      return {};
    },
  };
}

/**
 * The contents of the messages. Over some transports the stream of a disconnected client just
 * ends: a partial file must not be taken for a complete one.
 */
async function* chunks(
  messages: AsyncIterator<hostAgent.WriteFileStreamRequest>,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  for (;;) {
    const next = await messages.next();
    signal.throwIfAborted();
    if (next.done) return;
    const { content } = next.value;
    if (content.case !== 'chunk') {
      throw new TorporError('invalid_request', 'After the first message only chunks may follow.');
    }
    if (content.value.length > 0) yield content.value;
  }
}

function required(path: string): string {
  if (path !== '') return path;
  throw new TorporError('invalid_request', 'The path of the file is empty.');
}
