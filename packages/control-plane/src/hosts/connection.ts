import { type Client, Code, ConnectError, type Transport } from '@connectrpc/connect';
import { createStreamingClient, hostAgent, TorporError } from '@torpor/protocol';

export type HostClient = Client<typeof hostAgent.HostAgentService>;

/** What a create request is checked against. */
export interface HostDescription {
  readonly memoryMb: number;
  readonly maxVcpus: number;
  readonly maxMemoryMb: number;
  /** Names of the images. */
  readonly templates: readonly string[];
  /** Sorted by name. */
  readonly images: readonly HostImage[];
}

/** An image of a host: every team may start sandboxes from it. */
export interface HostImage {
  readonly name: string;
  readonly sizeBytes: number;
  readonly createdAt: Date;
}

/** How long an agent may take for something that needs no guest. */
const HOST_CALL_TIMEOUT_MS = 15_000;

/** For what is not a wait for the guest itself: the queue before it, images, disks. */
const GUEST_START_SLACK_MS = 10 * 60_000;
/** Another's boot of the same shape, the VMM, the guest, what it does before it is kept, its identity. */
const WAITS_PER_GUEST_START = 5;
/** Far below 2^31 ms, which is the longest that a timer takes. */
const LONGEST_CALL_MS = 24 * 3_600_000;

/** A machine with a host agent, and the way to it. */
export class HostConnection {
  readonly id: string;
  readonly client: HostClient;
  readonly #guestTimeoutMs: number;

  /** `guestTimeoutMs`: how long its agent lets a guest take from its start to answering. */
  constructor(id: string, transport: Transport, guestTimeoutMs: number) {
    this.id = id;
    this.client = createStreamingClient(hostAgent.HostAgentService, transport);
    this.#guestTimeoutMs = guestTimeoutMs;
  }

  /**
   * How long a call may take that starts so many guests. For what never ends: a guest that
   * takes too long is the agent's to give up, with the reason.
   */
  guestStartTimeoutMs(guests = 1): number {
    const waitsMs = guests * WAITS_PER_GUEST_START * this.#guestTimeoutMs;
    return Math.min(GUEST_START_SLACK_MS + waitsMs, LONGEST_CALL_MS);
  }

  /** What the agent knows of a sandbox now; undefined if nothing. Throws `host_unavailable`. */
  async fetchSandboxInfo(id: string): Promise<hostAgent.SandboxInfo | undefined> {
    try {
      const answer = await agentCall(() =>
        this.client.getSandbox({ sandboxId: id }, { timeoutMs: HOST_CALL_TIMEOUT_MS }),
      );
      return answer.sandbox;
    } catch (reason) {
      const error = TorporError.from(reason);
      if (error.code === 'not_found') return undefined;
      throw error;
    }
  }

  /** Asks the agent each time, because images come and go. */
  async describe(): Promise<HostDescription> {
    const answer = await agentCall(() =>
      this.client.describeHost({}, { timeoutMs: HOST_CALL_TIMEOUT_MS }),
    );
    const images = answer.images
      .map(({ name, sizeBytes, createdAtUnix }) => ({
        name,
        sizeBytes: Number(sizeBytes),
        createdAt: new Date(Number(createdAtUnix) * 1000),
      }))
      .sort((a, b) => a.name.localeCompare(b.name));
    return {
      memoryMb: Number(answer.memoryMb),
      maxVcpus: answer.maxVcpus,
      maxMemoryMb: Number(answer.maxMemoryMb),
      templates: images.map(({ name }) => name),
      images,
    };
  }
}

/** Runs a call to an agent; what it throws is a TorporError. One that we cancelled ourselves is a `conflict`. */
export async function agentCall<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    if (error instanceof ConnectError && error.code === Code.Canceled) {
      throw new TorporError('conflict', 'The client disconnected.', { cause: error });
    }
    if (isLate(error)) {
      throw new TorporError('timeout', 'The host agent did not respond in time.', {
        remedy: 'Try again; the host may be overloaded.',
        cause: error,
      });
    }
    throw TorporError.from(error);
  }
}

/** Whether our own deadline for the call has passed; an agent's answer says in its detail what was late. */
function isLate(error: unknown): boolean {
  return (
    error instanceof ConnectError &&
    error.code === Code.DeadlineExceeded &&
    error.findDetails(hostAgent.ErrorDetailSchema).length === 0 &&
    !(error.cause instanceof TorporError)
  );
}
