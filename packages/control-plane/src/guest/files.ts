import { type hostAgent, TorporError } from '@torpor/protocol';
import type { Principal } from '../auth/principal.ts';
import type { GuestAccess } from './access.ts';

const AGENT_CALL_TIMEOUT_MS = 60_000;
const CANCEL_GRACE_MS = 10_000;
/** Sized so that one chunk is copied quickly and a message costs little per byte. */
const MAX_CHUNK_BYTES = 256 * 1024;

export interface FileLocation {
  readonly path: string;
  readonly user?: string | undefined;
}

const ENTRY_TYPES = ['file', 'directory', 'symlink', 'other'] as const;

/** A file or directory in the guest. */
export interface FileEntry {
  readonly name: string;
  readonly path: string;
  readonly type: (typeof ENTRY_TYPES)[number];
  readonly size: number;
  readonly mode: number;
  /** As ls(1) prints it. */
  readonly permissions: string;
  readonly owner: string;
  readonly group: string;
  /** Unix seconds. */
  readonly modifiedAt: number;
  readonly symlinkTarget?: string;
}

/** Files in sandboxes. Contents are streamed with back-pressure. */
export class GuestFiles {
  readonly #access: GuestAccess;

  constructor(access: GuestAccess) {
    this.#access = access;
  }

  /** Throws what a transfer would throw, before its content is read. */
  async requireRunning(principal: Principal, id: string): Promise<void> {
    await this.#access.host(principal, id);
  }

  /**
   * Writes a file from `content`, which is read only as fast as the guest takes it.
   * `content` must throw if it is incomplete: only that tells the agent so, because a
   * cancelled call looks like the end of the stream. So `signal` cancels the call only
   * after a grace period, for a guest that no longer reads.
   */
  async write(
    principal: Principal,
    id: string,
    location: FileLocation,
    content: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<void> {
    const host = await this.#access.host(principal, id);
    const meta = { sandboxId: id, ...fileMessage(location) };
    using cancellation = new DelayedCancellation(signal, CANCEL_GRACE_MS);
    await host.call((client) =>
      client.writeFileStream(
        (async function* () {
          yield { content: { case: 'meta' as const, value: meta } };
          for await (const part of content) {
            for (let at = 0; at < part.length; at += MAX_CHUNK_BYTES) {
              const value = part.subarray(at, at + MAX_CHUNK_BYTES);
              yield { content: { case: 'chunk' as const, value } };
            }
          }
        })(),
        { signal: cancellation.signal },
      ),
    );
  }

  /**
   * The content of a file, read only as fast as it is taken. Resolves when the first
   * bytes have arrived, so that a missing file is an error and not an empty response.
   * Leaving the iteration early stops the transfer.
   */
  async read(
    principal: Principal,
    id: string,
    location: FileLocation,
    signal: AbortSignal,
  ): Promise<AsyncIterable<Uint8Array>> {
    const host = await this.#access.host(principal, id);
    const messages = host
      .stream((client) =>
        client.readFileStream({ sandboxId: id, ...fileMessage(location) }, { signal }),
      )
      [Symbol.asyncIterator]();
    const first = await messages.next();
    return contentOf(first, messages);
  }

  async list(
    principal: Principal,
    id: string,
    { depth, ...location }: FileLocation & { readonly depth: number },
  ): Promise<readonly FileEntry[]> {
    const host = await this.#access.host(principal, id);
    const response = await host.call((client) =>
      client.listDir(
        { sandboxId: id, depth, ...fileMessage(location) },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      ),
    );
    return response.entries.map(entryFrom);
  }

  /** Throws `already_exists` if the directory exists. */
  async makeDirectory(
    principal: Principal,
    id: string,
    location: FileLocation,
  ): Promise<FileEntry> {
    const host = await this.#access.host(principal, id);
    const response = await host.call((client) =>
      client.makeDir(
        { sandboxId: id, ...fileMessage(location) },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      ),
    );
    if (response.entry === undefined) {
      throw new TorporError(
        'internal_error',
        'The host agent created a directory but did not return it.',
      );
    }
    return entryFrom(response.entry);
  }

  async remove(principal: Principal, id: string, location: FileLocation): Promise<void> {
    const host = await this.#access.host(principal, id);
    await host.call((client) =>
      client.removePath(
        { sandboxId: id, ...fileMessage(location) },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      ),
    );
  }
}

/** The fields that all messages to the agent about a file share. */
function fileMessage({ path, user }: FileLocation) {
  return { path, ...(user === undefined ? {} : { user }) };
}

/** A signal that follows another one after a delay. */
class DelayedCancellation implements Disposable {
  readonly #controller = new AbortController();
  readonly #source: AbortSignal;
  readonly #delayMs: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(source: AbortSignal, delayMs: number) {
    this.#source = source;
    this.#delayMs = delayMs;
    source.addEventListener('abort', this.#start);
    if (source.aborted) this.#start();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  readonly #start = () => {
    this.#timer = setTimeout(() => this.#controller.abort(this.#source.reason), this.#delayMs);
    this.#timer.unref();
  };

  [Symbol.dispose](): void {
    this.#source.removeEventListener('abort', this.#start);
    clearTimeout(this.#timer);
  }
}

/** The chunks of a file. Not a generator: if it is never started, its `finally` does not run. */
function contentOf(
  first: IteratorResult<hostAgent.ReadFileStreamResponse>,
  messages: AsyncIterator<hostAgent.ReadFileStreamResponse>,
): AsyncIterable<Uint8Array> {
  let next: IteratorResult<hostAgent.ReadFileStreamResponse> | undefined = first;
  const iterator: AsyncIterator<Uint8Array, undefined> = {
    async next() {
      for (;;) {
        const message = next ?? (await messages.next());
        next = undefined;
        if (message.done === true) return { done: true, value: undefined };
        if (message.value.chunk.length > 0) return { done: false, value: message.value.chunk };
      }
    },
    async return() {
      await messages.return?.();
      return { done: true, value: undefined };
    },
  };
  return { [Symbol.asyncIterator]: () => iterator };
}

function entryFrom(entry: hostAgent.FileEntry): FileEntry {
  const { name, path, mode, permissions, owner, group, symlinkTarget } = entry;
  return {
    name,
    path,
    type: ENTRY_TYPES.find((type) => type === entry.type) ?? 'other',
    size: Number(entry.size),
    mode,
    permissions,
    owner,
    group,
    modifiedAt: Number(entry.modifiedAt),
    ...(symlinkTarget === undefined ? {} : { symlinkTarget }),
  };
}
