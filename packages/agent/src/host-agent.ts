import type { ConnectRouter } from '@connectrpc/connect';
import { logRequestIds } from '@torpor/protocol';
import type { AcceleratorChoice } from '@torpor/vmm';
import type { HostAgentConfig } from './config.ts';
import { destroyAll } from './lifecycle/destroy.ts';
import { Reaper } from './lifecycle/reap.ts';
import { hostCapacity } from './machine/capacity.ts';
import { type OpenHost, openHost } from './open-host.ts';
import { recoverSandboxes } from './recovery/recover.ts';
import type { SandboxRegistry } from './registry/registry.ts';
import { describeHost, type HostDescription } from './rpc/host-rpc.ts';
import { agentRoutes } from './rpc/routes.ts';

/** The agent of one machine: all its sandboxes, and the RPCs that control them. */
export class HostAgent {
  readonly accelerator: AcceleratorChoice;
  /** Tag in the names of all resources that this agent creates outside its data directory. */
  readonly instance: string;
  readonly #config: HostAgentConfig;
  readonly #registry: SandboxRegistry;
  readonly #description: HostDescription;
  readonly #resources: AsyncDisposableStack;

  /**
   * Starts the agent of a data directory: builds the guest artefacts that the cache lacks,
   * adopts the running sandboxes, and releases what an earlier agent left. Throws `conflict` if
   * another agent uses the directory, and `host_setup` with a remedy for what this machine
   * lacks.
   */
  static async open(given: HostAgentConfig): Promise<HostAgent> {
    const config = { ...given, logger: logRequestIds(given.logger) };
    await using stack = new AsyncDisposableStack();
    const opened = await openHost(config, stack);
    const registry = await recoverSandboxes(opened.host);
    stack.defer(() => registry.close());
    stack.use(new Reaper(registry, config.logger));
    return new HostAgent(config, opened, registry, stack.move());
  }

  private constructor(
    config: HostAgentConfig,
    { host, accelerator }: OpenHost,
    registry: SandboxRegistry,
    resources: AsyncDisposableStack,
  ) {
    this.accelerator = accelerator;
    this.instance = host.layout.instance;
    this.#config = config;
    this.#registry = registry;
    this.#resources = resources;
    this.#description = {
      dataDir: host.layout.dataDir,
      limits: host.limits,
      versions: {
        agent_version: host.agentVersion,
        envd_version: host.artifacts.envdVersion,
        kernel_version: host.artifacts.kernel.version,
        vmm: host.vmm.vmm,
        vmm_version: host.vmm.vmmVersion,
        accelerator: host.vmm.accelerator,
      },
      images: host.images,
      capacity: () => hostCapacity(host),
    };
  }

  /** What the host is and has, as heartbeats report it. */
  describe(): ReturnType<typeof describeHost> {
    return describeHost(this.#description);
  }

  /** Registers the HostAgentService with a Connect router. */
  routes(router: ConnectRouter): void {
    agentRoutes({
      registry: this.#registry,
      description: this.#description,
      logger: this.#config.logger,
      onTerminate: () => this.#config.onTerminate?.(),
    })(router);
  }

  /**
   * Stops the agent. Running sandboxes keep running and are adopted by the next agent, unless
   * all are to be destroyed. Operations in progress are finished first.
   */
  async close(options: { readonly destroyAll?: boolean } = {}): Promise<void> {
    try {
      if (options.destroyAll === true) await destroyAll(this.#registry);
    } finally {
      await this.#resources.disposeAsync();
    }
  }
}
