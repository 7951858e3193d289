import type { AcceleratorChoice } from '@torpor/agent';
import { JoinedHost, type JoinRequest } from '@torpor/agent/enrolment';
import { TorporError } from '@torpor/sdk/basics';
import { type AgentOptions, openAgent } from './open-agent.ts';
import { openTracing } from './open-tracing.ts';

export interface JoinedAgentOptions extends AgentOptions {
  /** Needed until the machine has joined. */
  readonly join: JoinRequest | undefined;
}

/** The host agent alone, for the control plane that it has joined. */
export class JoinedAgent implements AsyncDisposable {
  readonly hostId: string;
  readonly port: number;
  readonly accelerator: AcceleratorChoice;
  /** Rejects if the host is deleted from the control plane. */
  readonly failed: Promise<never>;
  readonly #resources: AsyncDisposableStack;

  private constructor(
    { hostId, port }: JoinedHost,
    accelerator: AcceleratorChoice,
    failed: Promise<never>,
    resources: AsyncDisposableStack,
  ) {
    this.hostId = hostId;
    this.port = port;
    this.accelerator = accelerator;
    this.failed = failed;
    this.#resources = resources;
  }

  /** On failure, nothing keeps running except earlier sandboxes. */
  static async start(options: JoinedAgentOptions): Promise<JoinedAgent> {
    await using stack = new AsyncDisposableStack();
    const { config, join, logger } = options;
    const tracing = stack.use(await openTracing(options, 'torpor-agent'));
    const agent = await openAgent(options, tracing);
    stack.defer(() => agent.close());
    const { promise: failed, reject } = Promise.withResolvers<never>();
    // It may reject before anything waits for it.
    failed.catch(() => undefined);
    const host = stack.use(
      await JoinedHost.open({
        dataDir: config.dataDir,
        join,
        routes: (router) => agent.routes(router),
        describe: () => agent.describe(),
        port: config.hostPort,
        address: config.hostAddress,
        logger: logger.child({ part: 'agent' }),
        onDeleted: () => reject(hostDeleted()),
      }),
    );
    return new JoinedAgent(host, agent.accelerator, failed, stack.move());
  }

  /** Stops serving; sandboxes keep running. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources.disposeAsync();
  }
}

function hostDeleted(): TorporError {
  return new TorporError('not_found', 'This host was deleted from the control plane.', {
    remedy: 'Join again with a new token. What runs on this machine keeps running.',
  });
}
