import { createRouterTransport } from '@connectrpc/connect';
import type { AcceleratorChoice, HostAgent } from '@torpor/agent';
import { ControlPlane } from '@torpor/control-plane';
import type { Tracing } from '@torpor/telemetry';
import { controlPlaneOptions } from './control-plane-options.ts';
import { type AgentOptions, openAgent } from './open-agent.ts';
import { openTracing } from './open-tracing.ts';

interface PlatformOptions extends AgentOptions {
  readonly replaceSecretKey?: boolean | undefined;
}

/** Control plane and host agent in one process, connected without a socket. */
export class Platform {
  readonly apiUrl: string;
  /** Where agents of other machines join; undefined if they cannot. */
  readonly agentUrl: string | undefined;
  readonly accelerator: AcceleratorChoice;
  readonly #controlPlane: ControlPlane;
  readonly #agent: HostAgent;
  readonly #tracing: Tracing;

  private constructor(controlPlane: ControlPlane, agent: HostAgent, tracing: Tracing) {
    this.#controlPlane = controlPlane;
    this.#agent = agent;
    this.#tracing = tracing;
    this.apiUrl = controlPlane.url;
    this.agentUrl = controlPlane.agentUrl;
    this.accelerator = agent.accelerator;
  }

  /** Starts both. On failure, nothing keeps running except earlier sandboxes. */
  static async start(options: PlatformOptions): Promise<Platform> {
    await using stack = new AsyncDisposableStack();
    const { acceptAgents, agentPort: port, agentUrl: url } = options.config;
    const tracing = stack.use(await openTracing(options, 'torpor'));
    const agent = await openAgent(options, tracing);
    stack.defer(() => agent.close());
    const controlPlane = await ControlPlane.start({
      ...controlPlaneOptions(options, tracing),
      replaceSecretKey: options.replaceSecretKey,
      hostTransport: createRouterTransport((router) => agent.routes(router)),
      agents: acceptAgents ? { port, url } : undefined,
    });
    stack.move();
    return new Platform(controlPlane, agent, tracing);
  }

  /** Stops serving. Sandboxes keep running, unless all are to be destroyed. */
  async close({ destroyAll }: { readonly destroyAll: boolean }): Promise<void> {
    try {
      await this.#controlPlane.close({ destroyAll });
    } finally {
      // Also those without a row in the database.
      await this.#agent.close({ destroyAll }).finally(() => this.#tracing.close());
    }
  }
}
