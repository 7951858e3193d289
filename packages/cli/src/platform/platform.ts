import { createRouterTransport } from '@connectrpc/connect';
import { type AcceleratorChoice, HostAgent, type Progress } from '@torpor/agent';
import { ControlPlane } from '@torpor/control-plane';
import { type Config, parseQuotas } from '@torpor/control-plane/config';
import type { Logger } from 'pino';
import { ENVD_ENTRY } from './envd-entry.ts';
import { hostSettings } from './host-settings.ts';

export interface PlatformOptions {
  readonly config: Config;
  readonly version: string;
  readonly logger: Logger;
  readonly onProgress: (progress: Progress) => void;
  /** Called when a client of the host agent requests a stop of the host. */
  readonly onTerminate: () => void;
}

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
  static async start(options: PlatformOptions): Promise<Platform> {
    await using stack = new AsyncDisposableStack();
    const { config, logger } = options;
    const { dataDir, guestTimeoutMs } = config;
    const agent = await HostAgent.open({
      ...hostSettings(config),
      envdEntry: ENVD_ENTRY,
      guestTimeoutMs,
      logger: logger.child({ part: 'agent' }),
      onProgress: options.onProgress,
      onTerminate: options.onTerminate,
    });
    stack.defer(() => agent.close());
    const controlPlane = await ControlPlane.start({
      dataDir,
      databaseUrl: config.databaseUrl,
      host: config.host,
      port: config.port,
      secretKey: config.secretKey,
      quotas: parseQuotas(config.teamQuotas),
      webhookNetworks: config.webhookNetworks?.split(',') ?? [],
      hostTransport: createRouterTransport((router) => agent.routes(router)),
      guestTimeoutMs,
      retention: { keepStoppedMs: config.keepStoppedMs },
      logger: logger.child({ part: 'control-plane' }),
      version: options.version,
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
