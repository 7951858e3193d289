import { randomBytes } from 'node:crypto';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { Code, ConnectError, type HandlerContext } from '@connectrpc/connect';
import { fileSystemType } from '@torpor/linux';
import { envdFilesystem, TorporError } from '@torpor/protocol';
import type { EnvdContext } from '../context.ts';
import { keepaliveMs } from '../http/keepalive.ts';
import { DirectoryWatcher } from './directory-watcher.ts';
import { entryInfo } from './entry-info.ts';
import { filesystemError, isMissing } from './errors.ts';
import { EventQueue } from './event-queue.ts';
import { assertDirectory } from './list-directory.ts';

type WatchRequest = envdFilesystem.WatchDirRequest | envdFilesystem.CreateWatcherRequest;
type WatchResponse = MessageInitShape<typeof envdFilesystem.WatchDirResponseSchema>;

/** About 200 bytes each, more with entries: some MiB for a watcher whose events are not fetched. */
const MAX_WAITING_EVENTS = 32_768;

/** Polled watchers exist until they are removed. */
const MAX_POLLED_WATCHERS = 256;

interface Watch extends Disposable {
  readonly events: EventQueue<envdFilesystem.FilesystemEvent>;
}

/** The four watch RPCs: a stream, and polling for clients without streams. */
export class WatchService {
  readonly #context: EnvdContext;
  readonly #polled = new Map<string, Watch>();

  constructor(context: EnvdContext) {
    this.#context = context;
  }

  /**
   * Streams a `start`, then the events of a directory as they happen, and a `keepalive`
   * whenever nothing was sent for the interval that the header `Keepalive-Ping-Interval` asks
   * for (seconds; default 90). Closes when the directory itself is removed or renamed, after
   * that event.
   */
  async *watchDir(
    request: envdFilesystem.WatchDirRequest,
    call: HandlerContext,
  ): AsyncGenerator<WatchResponse> {
    using watch = await this.#open(request, call);
    // A generator whose client has disconnected is not always resumed: it cannot clean up by
    // itself.
    call.signal.addEventListener('abort', () => watch[Symbol.dispose](), { once: true });
    call.signal.throwIfAborted();
    yield { event: { case: 'start', value: {} } };
    const silenceMs = keepaliveMs(call.requestHeader);
    for (;;) {
      const state = await watch.events.wait(silenceMs, call.signal);
      if (state === 'closed') return;
      if (state === 'idle') yield { event: { case: 'keepalive', value: {} } };
      for (const event of watch.events.take()) {
        yield { event: { case: 'filesystem', value: event } };
      }
    }
  }

  async createWatcher(request: envdFilesystem.CreateWatcherRequest, call: HandlerContext) {
    if (this.#polled.size >= MAX_POLLED_WATCHERS) {
      throw new TorporError(
        'sandbox_exhausted',
        `there are ${MAX_POLLED_WATCHERS} watchers already: remove those that are no longer needed`,
      ).toConnectError();
    }
    const watch = await this.#open(request, call);
    const watcherId = `w${randomBytes(10).toString('hex')}`;
    this.#polled.set(watcherId, watch);
    return { watcherId };
  }

  /** The events since the last call, in order; none are lost between two calls. */
  getWatcherEvents(request: envdFilesystem.GetWatcherEventsRequest) {
    return { events: this.#find(request.watcherId).events.take() };
  }

  removeWatcher(request: envdFilesystem.RemoveWatcherRequest) {
    this.#find(request.watcherId)[Symbol.dispose]();
    this.#polled.delete(request.watcherId);
    return {};
  }

  #find(watcherId: string): Watch {
    const watch = this.#polled.get(watcherId);
    if (watch === undefined) {
      throw new ConnectError(`watcher with id ${watcherId} not found`, Code.NotFound);
    }
    return watch;
  }

  async #open(request: WatchRequest, call: HandlerContext): Promise<Watch> {
    const user = this.#context.userOfCall(call.requestHeader);
    const path = this.#context.resolvePath(request.path, user);
    const { recursive, allowNetworkMounts } = request;
    if (!allowNetworkMounts) await assertNotOnNetwork(path);
    await assertDirectory(path);
    const events = new EventQueue<envdFilesystem.FilesystemEvent>(MAX_WAITING_EVENTS);
    const watcher = await DirectoryWatcher.start(
      path,
      { recursive, allowNetworkMounts },
      {
        event: async (name, type) => {
          const entry = request.includeEntry ? await this.#entryOf(path, name, type) : undefined;
          const event = create(envdFilesystem.FilesystemEventSchema, {
            name,
            type,
            ...(entry === undefined ? {} : { entry }),
          });
          if (!events.push(event)) watcher[Symbol.dispose]();
        },
        end: (error) => events.end(error),
      },
    );
    return { events, [Symbol.dispose]: () => watcher[Symbol.dispose]() };
  }

  /** The entry as it is now; none when it no longer exists, by this event or a later one. */
  async #entryOf(path: string, name: string, type: envdFilesystem.EventType) {
    const { REMOVE, RENAME } = envdFilesystem.EventType;
    if (type === REMOVE || type === RENAME) return undefined;
    try {
      return await entryInfo(name === '.' ? path : `${path}/${name}`, this.#context.users);
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw filesystemError('cannot describe the entry', error);
    }
  }
}

async function assertNotOnNetwork(path: string): Promise<void> {
  // Other errors of the path are reported when it is watched.
  const type = await fileSystemType(path).catch(() => undefined);
  if (type?.kind !== 'network') return;
  throw new ConnectError(
    `cannot watch path on network filesystem (${type.name}): ${path}; changes made elsewhere go unnoticed; set allow_network_mounts to watch it anyway`,
    Code.InvalidArgument,
  );
}
