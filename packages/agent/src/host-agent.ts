import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import type { ConnectRouter } from '@connectrpc/connect';
import { BuildStore } from '@torpor/builds';
import { createUpperDisk, ensureGuestArtifacts, ImageStore, kernelArguments } from '@torpor/images';
import { dataExtents } from '@torpor/linux';
import { GUEST } from '@torpor/protocol';
import type { AcceleratorChoice } from '@torpor/vmm';
import { WorkingSets } from './builds/working-sets.ts';
import {
  DEFAULT_GUEST_TIMEOUT_MS,
  DEFAULT_NAMESERVERS,
  type HostAgentConfig,
  hostLimits,
  stepTimeoutMs,
} from './config.ts';
import { lockDataDirectory } from './data-dir/agent-lock.ts';
import { closeLayout, openLayout } from './data-dir/layout.ts';
import { loadOrCreateKey } from './data-dir/secret-key.ts';
import { GuestSecrets } from './guest/access-token.ts';
import type { BaseImages, HostContext } from './host-context.ts';
import { FileJournal } from './journal/file-journal.ts';
import { DEFAULT_TEMPLATE } from './lifecycle/create-request.ts';
import { SandboxManager } from './lifecycle/manager.ts';
import { Reaper } from './lifecycle/reap.ts';
import { PageServer } from './machine/page-server.ts';
import { openSlotPool } from './network/index.ts';
import { reclaim } from './recovery/reclaim.ts';
import type { HostDescription } from './rpc/host-rpc.ts';
import { agentRoutes } from './rpc/routes.ts';
import { StoredImages } from './stored-images.ts';
import { chooseVmm } from './vmm-choice.ts';
import { openDriver } from './vmm-driver.ts';

/** The agent of one machine: all its sandboxes, and the RPCs with which they are worked. */
export class HostAgent {
  readonly accelerator: AcceleratorChoice;
  /** Tag in the names of everything that this agent makes outside its data directory. */
  readonly instance: string;
  readonly #config: HostAgentConfig;
  readonly #manager: SandboxManager;
  readonly #description: HostDescription;
  readonly #resources: AsyncDisposableStack;

  /**
   * Starts the agent of a data directory: makes what guests need if the cache lacks
   * it, takes over the sandboxes that still run, and takes down what an earlier agent
   * left. Throws `conflict` if another agent uses the directory, and `host_setup` with
   * the remedy for what this machine lacks.
   */
  static async open(config: HostAgentConfig): Promise<HostAgent> {
    await using stack = new AsyncDisposableStack();
    const layout = await openLayout(config.dataDir);
    stack.use(await lockDataDirectory(layout.lockFile));
    stack.defer(() => closeLayout(layout));
    const secrets = new GuestSecrets(await loadOrCreateKey(layout.guestKeyFile));
    const journal = stack.use(await FileJournal.open(layout.journalFile));
    const { logger } = config;
    const artifacts = await ensureGuestArtifacts({
      cacheDir: config.cacheDir,
      ...(config.onProgress === undefined ? {} : { onProgress: config.onProgress }),
    });
    const images = config.images ?? (await openImages(config));
    const vmm = await chooseVmm({
      setting: config.vmm,
      kernelPath: artifacts.kernel.qemuPath,
      kernelArguments: kernelArguments(),
      stateDirectory: layout.dataDir,
      forcedAccelerator: config.forcedAccelerator,
      onProbe: () => logger.info('Booting a guest under KVM and in emulation, to use the faster'),
    });
    const { accelerator, platform } = vmm;
    logger.info(accelerator, 'accelerator');
    logger.info({ ...platform, reason: vmm.reason }, 'VMM');
    const slots = await openSlotPool({
      ...config.network,
      instance: layout.instance,
      journal,
      stateFile: layout.networkStateFile,
      logger,
    });
    stack.defer(() => slots.close());
    const pages = new PageServer({
      socketPath: layout.pagerSocket,
      logPath: layout.pagerLog,
      logger,
    });
    stack.defer(() => pages.close());
    const guestTimeoutMs = config.guestTimeoutMs ?? DEFAULT_GUEST_TIMEOUT_MS;
    const host: HostContext = {
      layout,
      journal,
      slots,
      driver: await openDriver(vmm, config.cacheDir, stepTimeoutMs(guestTimeoutMs)),
      vmm: platform,
      snapshots: {
        builds: await BuildStore.open({ directory: layout.dataDir, dataExtents }),
        pages,
        workingSets: new WorkingSets(layout.workingSetsRoot),
        keepBoots: config.keepBoots ?? true,
      },
      images,
      artifacts,
      kernelArguments: kernelArguments(),
      createUpperDisk,
      secrets,
      limits: hostLimits(config.limits),
      nameservers: config.nameservers ?? DEFAULT_NAMESERVERS,
      logger,
      now: () => performance.now(),
      guestTimeoutMs,
      stepTimeoutMs: stepTimeoutMs(guestTimeoutMs),
      concurrentBoots: Math.max(2, availableParallelism()),
      agentVersion: await ownVersion(),
      guestUrl: (slot) => `http://${slot.hostAddress}:${GUEST.envdPort}`,
    };
    const manager = new SandboxManager(host, await reclaim(host));
    stack.defer(() => manager.close());
    stack.use(new Reaper(manager, logger));
    return new HostAgent(config, host, accelerator, manager, stack.move());
  }

  private constructor(
    config: HostAgentConfig,
    host: HostContext,
    accelerator: AcceleratorChoice,
    manager: SandboxManager,
    resources: AsyncDisposableStack,
  ) {
    this.accelerator = accelerator;
    this.instance = host.layout.instance;
    this.#config = config;
    this.#manager = manager;
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
    };
  }

  /** Registers the HostAgentService with a Connect router. */
  routes(router: ConnectRouter): void {
    agentRoutes({
      manager: this.#manager,
      description: this.#description,
      logger: this.#config.logger,
      onTerminate: () => this.#config.onTerminate?.(),
    })(router);
  }

  /**
   * Ends the agent. Running sandboxes run on and are taken over by the next agent,
   * unless all are to be destroyed. Operations that are under way are finished first.
   */
  async close(options: { readonly destroyAll?: boolean } = {}): Promise<void> {
    try {
      if (options.destroyAll === true) await this.#manager.destroyAll();
    } finally {
      await this.#resources.disposeAsync();
    }
  }
}

async function openImages({ cacheDir, onProgress }: HostAgentConfig): Promise<BaseImages> {
  const store = new ImageStore({ cacheDir });
  await store.build(DEFAULT_TEMPLATE, onProgress === undefined ? {} : { onProgress });
  return new StoredImages(store);
}

async function ownVersion(): Promise<string> {
  const text = await readFile(new URL('../package.json', import.meta.url), 'utf8');
  return String((JSON.parse(text) as { version: unknown }).version);
}
