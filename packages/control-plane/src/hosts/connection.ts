import { type Client, Code, ConnectError, type Transport } from '@connectrpc/connect';
import {
  createStreamingClient,
  currentRequestId,
  hostAgent,
  REQUEST_ID_HEADER,
  TorporError,
} from '@torpor/protocol';
import { tracedTransport } from './traced-transport.ts';

type HostClient = Client<typeof hostAgent.HostAgentService>;

/** The facts of a host that create requests are checked against. */
export interface HostDescription {
  /** What sandboxes may have in all. */
  readonly memoryMb: number;
  readonly maxVcpus: number;
  readonly maxMemoryMb: number;
  /** Names of the images. */
  readonly templates: readonly string[];
  /** Sorted by name. */
  readonly images: readonly HostImage[];
}

/** An image of a host. Every team may create sandboxes from it. */
export interface HostImage {
  readonly name: string;
  readonly sizeBytes: number;
  readonly createdAt: Date;
}

/** Timeout of calls to an agent that involve no guest. */
const HOST_CALL_TIMEOUT_MS = 15_000;

/** Added for everything but the waits for the guest itself: the queue, images, disks. */
const GUEST_START_SLACK_MS = 10 * 60_000;
/** The boot of another sandbox of the same shape, the VMM, the guest, its work before it is kept, its identity. */
const WAITS_PER_GUEST_START = 5;
/** Far below 2^31 ms, the limit of timers. */
const LONGEST_CALL_MS = 24 * 3_600_000;

/** A host, and the connection to its agent, which only this module has a client of. */
export class HostConnection {
  readonly id: string;
  readonly #client: HostClient;
  readonly #guestTimeoutMs: number;

  /** `guestTimeoutMs`: how long the agent waits for the first response of a guest that it started. */
  constructor(id: string, transport: Transport, guestTimeoutMs: number) {
    this.id = id;
    const named = tracedTransport(sendingRequestIds(transport), id);
    this.#client = createStreamingClient(hostAgent.HostAgentService, named);
    this.#guestTimeoutMs = guestTimeoutMs;
  }

  /** Calls the agent. Throws a TorporError; for a call that we cancelled, it is `conflict`. */
  async call<T>(call: (client: HostClient) => Promise<T>): Promise<T> {
    try {
      return await call(this.#client);
    } catch (error) {
      throw callError(error);
    }
  }

  /** The messages of a call that streams them, with the errors of {@link call}. Leaving the iteration cancels it. */
  stream<M>(call: (client: HostClient) => AsyncIterable<M>): AsyncIterable<M> {
    const messages = call(this.#client)[Symbol.asyncIterator]();
    return {
      [Symbol.asyncIterator]: () => ({
        next: () => this.call(() => messages.next()),
        async return() {
          await messages.return?.();
          return { done: true, value: undefined };
        },
      }),
    };
  }

  /**
   * Timeout of a call that starts this many guests. It is only for an agent that hangs: the
   * agent itself gives up a guest that takes too long, with the reason.
   */
  guestStartTimeoutMs(guests = 1): number {
    const waitsMs = guests * WAITS_PER_GUEST_START * this.#guestTimeoutMs;
    return Math.min(GUEST_START_SLACK_MS + waitsMs, LONGEST_CALL_MS);
  }

  /**
   * What the agent reports about a sandbox; undefined if it does not know it. With a fence, no
   * call with a lower one can change the sandbox afterwards, unless the reported state says that
   * one is doing so. Throws `host_unavailable`, and `conflict` if the fence is too low.
   */
  async fetchSandboxInfo(id: string, fence?: bigint): Promise<hostAgent.SandboxInfo | undefined> {
    try {
      const response = await this.call((client) =>
        client.getSandbox(
          { sandboxId: id, ...(fence === undefined ? {} : { fence }) },
          { timeoutMs: HOST_CALL_TIMEOUT_MS },
        ),
      );
      return response.sandbox;
    } catch (reason) {
      const error = TorporError.from(reason);
      if (error.code === 'not_found') return undefined;
      throw error;
    }
  }

  /** Asks the agent each time, because images are added and removed. */
  async describe(): Promise<HostDescription> {
    const response = await this.#describe();
    const images = response.images
      .map(({ name, sizeBytes, createdAtUnix }) => ({
        name,
        sizeBytes: Number(sizeBytes),
        createdAt: new Date(Number(createdAtUnix) * 1000),
      }))
      .sort((a, b) => a.name.localeCompare(b.name));
    return {
      memoryMb: Number(response.capacity?.memoryMb ?? response.memoryMb),
      maxVcpus: response.maxVcpus,
      maxMemoryMb: Number(response.maxMemoryMb),
      templates: images.map(({ name }) => name),
      images,
    };
  }

  /** What the host has for sandboxes; undefined if its agent does not report that. */
  async fetchCapacity(): Promise<hostAgent.HostCapacity | undefined> {
    return (await this.#describe()).capacity;
  }

  #describe(): Promise<hostAgent.DescribeHostResponse> {
    return this.call((client) => client.describeHost({}, { timeoutMs: HOST_CALL_TIMEOUT_MS }));
  }
}

/** The same transport; its calls name the request that they are made for. */
function sendingRequestIds(transport: Transport): Transport {
  const named = (header: ConstructorParameters<typeof Headers>[0]) => {
    const id = currentRequestId();
    if (id === undefined) return header;
    const headers = new Headers(header);
    headers.set(REQUEST_ID_HEADER, id);
    return headers;
  };
  return {
    unary: (method, signal, timeoutMs, header, ...rest) =>
      transport.unary(method, signal, timeoutMs, named(header), ...rest),
    stream: (method, signal, timeoutMs, header, ...rest) =>
      transport.stream(method, signal, timeoutMs, named(header), ...rest),
  };
}

function callError(error: unknown): TorporError {
  if (error instanceof ConnectError && error.code === Code.Canceled) {
    return new TorporError('conflict', 'The client disconnected.', { cause: error });
  }
  if (isLate(error)) {
    return new TorporError('timeout', 'The host agent did not respond in time.', {
      remedy: 'Try again; the host may be overloaded.',
      cause: error,
    });
  }
  return TorporError.from(error);
}

/** Whether our own deadline for the call has passed; an agent's own timeout has a detail. */
function isLate(error: unknown): boolean {
  return (
    error instanceof ConnectError &&
    error.code === Code.DeadlineExceeded &&
    error.findDetails(hostAgent.ErrorDetailSchema).length === 0 &&
    !(error.cause instanceof TorporError)
  );
}
