import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { LocalBuildStore } from '@torpor/builds';
import {
  createUpperDisk,
  type GuestArtifacts,
  kernelArguments,
  keysOf,
  registerCacheUser,
} from '@torpor/images';
import { copySparse, dataExtents } from '@torpor/linux';
import { FORWARDING_TRACER, GUEST } from '@torpor/protocol';
import type { AcceleratorChoice } from '@torpor/vmm';
import { DEFAULT_NAMESERVERS, type HostAgentConfig, hostLimits, stepTimeoutMs } from './config.ts';
import { lockDataDirectory } from './data-dir/agent-lock.ts';
import { closeLayout, type DataLayout, openLayout } from './data-dir/layout.ts';
import { loadOrCreateKey } from './data-dir/secret-key.ts';
import { GuestSecrets } from './guest/access-token.ts';
import { openImageStore } from './guest-artifacts/image-cache.ts';
import { prepareGuest } from './guest-artifacts/prepare-guest.ts';
import { StoredImages } from './guest-artifacts/stored-images.ts';
import type { BaseImages, HostContext } from './host-context.ts';
import { FileJournal } from './journal/file-journal.ts';
import { PageServer } from './machine/page-server.ts';
import { openSlotPool } from './network/index.ts';
import { chooseVmm, type VmmChoice } from './vmm-choice.ts';
import { openDriver } from './vmm-driver.ts';

export interface OpenHost {
  readonly host: HostContext;
  readonly accelerator: AcceleratorChoice;
}

/**
 * Opens the host of a data directory, and makes what guests need if the cache lacks it.
 * Resources to be closed are pushed on the stack, even when this throws. Throws `conflict` if
 * another agent uses the directory, and `host_setup` with a remedy for what this machine lacks.
 */
export async function openHost(
  config: HostAgentConfig,
  stack: AsyncDisposableStack,
): Promise<OpenHost> {
  const { logger } = config;
  const layout = await openLayout(config.dataDir);
  stack.use(await lockDataDirectory(layout.lockFile));
  stack.defer(() => closeLayout(layout));
  const secrets = new GuestSecrets(await loadOrCreateKey(layout.guestKeyFile));
  const journal = stack.use(await FileJournal.open(layout.journalFile));
  const { artifacts, images } = await openGuestArtifacts(config, layout);
  const vmm = await findVmm(config, layout, artifacts.kernel.qemuPath);
  const slots = await openSlotPool({
    ...config.network,
    instance: layout.instance,
    journal,
    stateFile: layout.networkStateFile,
    logger,
  });
  stack.defer(() => slots.close());
  const { guestTimeoutMs } = config;
  const host: HostContext = {
    layout,
    journal,
    slots,
    driver: await openDriver(vmm, config.cacheDir, stepTimeoutMs(guestTimeoutMs)),
    vmm: vmm.platform,
    builds: await LocalBuildStore.open({ directory: layout.dataDir, dataExtents, copySparse }),
    pages: openPageServer(config, layout, stack),
    keepBoots: config.keepBoots ?? true,
    images,
    artifacts,
    kernelArguments: kernelArguments(),
    createUpperDisk,
    secrets,
    limits: hostLimits(config.limits),
    nameservers: config.nameservers ?? DEFAULT_NAMESERVERS,
    logger,
    tracer: config.tracer ?? FORWARDING_TRACER,
    now: () => performance.now(),
    guestTimeoutMs,
    stepTimeoutMs: stepTimeoutMs(guestTimeoutMs),
    concurrentBoots: Math.max(2, availableParallelism()),
    agentVersion: await ownVersion(),
    guestUrl: (slot) => `http://${slot.hostAddress}:${GUEST.envdPort}`,
  };
  return { host, accelerator: vmm.accelerator };
}

async function findVmm(
  { vmm: setting, programs, forcedAccelerator, logger }: HostAgentConfig,
  layout: DataLayout,
  kernelPath: string,
): Promise<VmmChoice> {
  const vmm = await chooseVmm({
    setting,
    programs,
    kernelPath,
    kernelArguments: kernelArguments(),
    stateDirectory: layout.dataDir,
    forcedAccelerator,
    onProbe: () =>
      logger.info('Accelerator race started: a guest boots under KVM and in emulation'),
  });
  logger.info(vmm.accelerator, 'Accelerator chosen');
  logger.info({ ...vmm.platform, reason: vmm.reason }, 'VMM chosen');
  return vmm;
}

function openPageServer(
  { logger }: HostAgentConfig,
  { pagerSocket: socketPath, pagerLog: logPath }: DataLayout,
  stack: AsyncDisposableStack,
): PageServer {
  const pages = new PageServer({ socketPath, logPath, logger });
  stack.defer(() => pages.close());
  return pages;
}

async function openGuestArtifacts(
  { cacheDir, envdEntry, onProgress }: HostAgentConfig,
  { dataDir }: DataLayout,
): Promise<{ readonly artifacts: GuestArtifacts; readonly images: BaseImages }> {
  const store = openImageStore(cacheDir, dataDir);
  const artifacts = await prepareGuest(store, {
    cacheDir,
    envdEntry,
    ...(onProgress === undefined ? {} : { onProgress }),
  });
  await registerCacheUser(cacheDir, { dataDir, keys: keysOf(artifacts) });
  return { artifacts, images: new StoredImages(store) };
}

async function ownVersion(): Promise<string> {
  const text = await readFile(new URL('../package.json', import.meta.url), 'utf8');
  return String((JSON.parse(text) as { version: unknown }).version);
}
