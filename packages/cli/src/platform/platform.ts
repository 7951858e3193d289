import { createRouterTransport } from '@connectrpc/connect';
import type { AcceleratorChoice, HostAgent } from '@torpor/agent';
import { ControlPlane } from '@torpor/control-plane';
import { controlPlaneOptions } from './control-plane-options.ts';
import { type AgentOptions, openAgent } from './open-agent.ts';

/** Control plane and host agent in one process, connected without a socket. */
export class Platform {
  readonly apiUrl: string;
  readonly accelerator: AcceleratorChoice;
  readonly #controlPlane: ControlPlane;
  readonly #agent: HostAgent;

  private constructor(controlPlane: ControlPlane, agent: HostAgent) {
    this.#controlPlane = controlPlane;
    this.#agent = agent;
    this.apiUrl = controlPlane.url;
    this.accelerator = agent.accelerator;
  }

  /** Starts both. On failure, nothing keeps running except earlier sandboxes. */
  static async start(options: AgentOptions): Promise<Platform> {
    await using stack = new AsyncDisposableStack();
    const agent = await openAgent(options);
    stack.defer(() => agent.close());
    const controlPlane = await ControlPlane.start({
      ...controlPlaneOptions(options),
      hostTransport: createRouterTransport((router) => agent.routes(router)),
    });
    stack.move();
    return new Platform(controlPlane, agent);
  }

  /** Stops serving. Sandboxes keep running, unless all are to be destroyed. */
  async close({ destroyAll }: { readonly destroyAll: boolean }): Promise<void> {
    try {
      await this.#controlPlane.close({ destroyAll });
    } finally {
      // Also those without a row in the database.
      await this.#agent.close({ destroyAll });
    }
  }
}
