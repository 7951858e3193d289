import { type Client, Code, ConnectError, type Transport } from '@connectrpc/connect';
import {
  createStreamingClient,
  currentRequestId,
  hostAgent,
  REQUEST_ID_HEADER,
  TorporError,
} from '@torpor/protocol';
import { NotConnected } from '@torpor/protocol/tls';
import { tracedTransport } from './traced-transport.ts';

type HostClient = Client<typeof hostAgent.HostAgentService>;

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
  #isResponding = true;
  #isAsked = false;

  /** `guestTimeoutMs`: how long the agent waits for the first response of a guest that it started. */
  constructor(id: string, transport: Transport, guestTimeoutMs: number) {
    this.id = id;
    const named = tracedTransport(sendingRequestIds(transport), id);
    this.#client = createStreamingClient(hostAgent.HostAgentService, named);
    this.#guestTimeoutMs = guestTimeoutMs;
  }

  /** Whether the last call had a response. */
  get isResponding(): boolean {
    return this.#isResponding;
  }

  /** Asks an agent that did not respond whether it does again, in the background. */
  askAgain(): void {
    if (this.#isResponding || this.#isAsked) return;
    this.#isAsked = true;
    void this.describe()
      .catch(() => undefined)
      .finally(() => {
        this.#isAsked = false;
      });
  }

  /** Calls the agent. Throws a TorporError; for a call that we cancelled, it is `conflict`. */
  async call<T>(call: (client: HostClient) => Promise<T>): Promise<T> {
    try {
      const response = await call(this.#client);
      this.#isResponding = true;
      return response;
    } catch (reason) {
      const error = callError(reason);
      if (error.code === 'host_unavailable') this.#isResponding = false;
      throw error;
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

  /** What the agent reports of its host. Images are added and removed, so that is known only now. */
  describe(): Promise<hostAgent.DescribeHostResponse> {
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

/** Whether a call failed before it was sent: there was no connection, and none could be made. */
export function wasNotSent(error: TorporError): boolean {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof NotConnected) return true;
  }
  return false;
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
