import { type Client, Code, ConnectError, createClient, type Transport } from '@connectrpc/connect';
import { hostAgent, TorporError } from '@torpor/protocol';

export type HostClient = Client<typeof hostAgent.HostAgentService>;

/** What a create request is checked against. */
export interface HostDescription {
  readonly memoryMb: number;
  readonly maxVcpus: number;
  readonly maxMemoryMb: number;
  readonly templates: readonly string[];
}

/** How long an agent may take for something that needs no guest. */
const HOST_CALL_TIMEOUT_MS = 15_000;

/** A machine with a host agent. */
export class Host {
  readonly id: string;
  readonly client: HostClient;

  constructor(id: string, transport: Transport) {
    this.id = id;
    this.client = createClient(hostAgent.HostAgentService, transport);
  }

  /** Asks the agent each time, because images come and go. */
  async describe(): Promise<HostDescription> {
    const answer = await agentCall(() =>
      this.client.describeHost({}, { timeoutMs: HOST_CALL_TIMEOUT_MS }),
    );
    return {
      memoryMb: Number(answer.memoryMb),
      maxVcpus: answer.maxVcpus,
      maxMemoryMb: Number(answer.maxMemoryMb),
      templates: answer.images.map((image) => image.name).sort(),
    };
  }
}

/** Runs a call to an agent; what it throws is a TorporError. One that we cancelled ourselves is a `conflict`. */
export async function agentCall<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    if (error instanceof ConnectError && error.code === Code.Canceled) {
      throw new TorporError('conflict', 'The client has hung up.', { cause: error });
    }
    throw TorporError.from(error);
  }
}
