import { createRouterTransport } from '@connectrpc/connect';
import { HostAgent, StoredImages, type VmmSetting } from '@torpor/agent';
import { ControlPlane } from '@torpor/control-plane';
import type { ImageStore, Progress } from '@torpor/images';
import type { Accelerator, AcceleratorChoice } from '@torpor/vmm';
import type { Logger } from 'pino';

export interface PlatformConfig {
  readonly dataDir: string;
  readonly cacheDir: string;
  /** Where root file systems come from. */
  readonly images: ImageStore;
  /** Address to serve on. */
  readonly host: string;
  /** 0 takes any free port. */
  readonly port: number;
  /** A PostgreSQL to use instead of the embedded one. */
  readonly databaseUrl: string | undefined;
  readonly vmm: VmmSetting;
  readonly forcedAccelerator: Accelerator | undefined;
  /** How long a guest may take from its start to answering; two minutes if undefined. */
  readonly guestTimeoutMs: number | undefined;
  /** How long destroyed sandboxes stay listed; undefined is the default. */
  readonly keepStoppedMs: number | undefined;
  readonly version: string;
  readonly logger: Logger;
  readonly onProgress: (progress: Progress) => void;
  /** Called when a client of the host agent asked the whole host to end. */
  readonly onTerminate: () => void;
}

/** Control plane and host agent in one process, joined without a socket. */
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

  /** Starts both; on failure nothing is left running but the sandboxes that ran before. */
  static async start(config: PlatformConfig): Promise<Platform> {
    await using stack = new AsyncDisposableStack();
    const { guestTimeoutMs } = config;
    const timeouts = guestTimeoutMs === undefined ? {} : { guestTimeoutMs };
    const agent = await HostAgent.open({
      dataDir: config.dataDir,
      cacheDir: config.cacheDir,
      images: new StoredImages(config.images),
      vmm: config.vmm,
      forcedAccelerator: config.forcedAccelerator,
      ...timeouts,
      logger: config.logger.child({ part: 'agent' }),
      onProgress: config.onProgress,
      onTerminate: config.onTerminate,
    });
    stack.defer(() => agent.close());
    const controlPlane = await ControlPlane.start({
      dataDir: config.dataDir,
      databaseUrl: config.databaseUrl,
      host: config.host,
      port: config.port,
      hostTransport: createRouterTransport((router) => agent.routes(router)),
      retention:
        config.keepStoppedMs === undefined ? undefined : { keepStoppedMs: config.keepStoppedMs },
      logger: config.logger.child({ part: 'control-plane' }),
      version: config.version,
      ...timeouts,
    });
    stack.move();
    return new Platform(controlPlane, agent);
  }

  /** Stops serving. Sandboxes run on, unless all are to be destroyed. */
  async close({ destroyAll }: { readonly destroyAll: boolean }): Promise<void> {
    try {
      await this.#controlPlane.close({ destroyAll });
    } finally {
      // Also those that the database does not know.
      await this.#agent.close({ destroyAll });
    }
  }
}
