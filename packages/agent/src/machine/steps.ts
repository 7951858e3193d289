import { randomBytes } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { GUEST, GUEST_DRIVES } from '@torpor/protocol';
import type { DriveSpec, MachineSpec, MicroVm } from '@torpor/vmm';
import { GuestClient } from '../guest/guest-client.ts';
import type { BaseImage, HostContext } from '../host-context.ts';
import type { NetworkSlot } from '../network/slot.ts';
import type { SandboxSpec } from '../registry/record.ts';

/*
 * The steps that bring a sandbox up, in their order. Each one registers the release
 * of what it made on the stack at once, so a later failure unwinds them in reverse,
 * and records it in the journal before it makes it, so a crash at any point leaves
 * nothing that the next start does not know of.
 */

export interface CreateContext {
  readonly host: HostContext;
  readonly id: string;
  readonly spec: SandboxSpec;
  readonly uid: number;
  readonly preferredSlot?: number | undefined;
  /** Takes over the releases of what the steps make. */
  readonly stack: AsyncDisposableStack;
}

const CONSOLE_LOG_BYTES = 1024 * 1024;

/** A namespace with a tap device. The pool records the slot in the journal. */
export async function acquireSlot(context: CreateContext) {
  const { host, id, spec, uid, stack } = context;
  const slot = await host.slots.acquire({
    owner: id,
    preferredIndex: context.preferredSlot,
    allowInternet: spec.allowInternet,
    vmmUser: { uid, gid: uid },
  });
  stack.defer(() => host.slots.release(slot));
  return slot;
}

/** The run directory, and the place of guest RAM, which the VMM driver fills. */
export async function makeRunFiles({ host, id, stack }: CreateContext): Promise<void> {
  const directory = { kind: 'directory', path: host.layout.runDirectory(id) } as const;
  await host.journal.record(id, directory);
  stack.defer(async () => {
    await rm(directory.path, { recursive: true, force: true });
    await host.journal.forget(directory);
  });
  await mkdir(directory.path, { mode: 0o700 });
  const memory = { kind: 'file', path: host.layout.memoryFile(id) } as const;
  await host.journal.record(id, memory);
  stack.defer(async () => {
    await rm(memory.path, { force: true });
    await host.journal.forget(memory);
  });
}

/** What a machine is made of, whether it boots or is restored. */
export interface MachineParts {
  readonly vcpus: number;
  readonly memoryMiB: number;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  /** The read-only drives, in order; the sandbox's own disk comes after them. */
  readonly drives: readonly DriveSpec[];
}

/** The machine of a sandbox in a network slot. */
export function machineSpec(
  { host, id, uid }: CreateContext,
  slot: NetworkSlot,
  parts: MachineParts,
): MachineSpec {
  const { layout } = host;
  return {
    ...parts,
    id,
    kernelArguments: host.kernelArguments,
    drives: [
      ...parts.drives,
      { id: GUEST_DRIVES.upper.id, path: layout.upperDisk(id), readOnly: false },
    ],
    network: {
      namespace: slot.namespace,
      tapDevice: slot.tapDevice,
      macAddress: GUEST.macAddress,
    },
    runDirectory: layout.runDirectory(id),
    memoryFile: layout.memoryFile(id),
    console: { path: layout.consoleLog(id), maxBytes: CONSOLE_LOG_BYTES },
    user: { uid, gid: uid },
  };
}

/** The tmpfs with the RAM of guests; undefined for a VMM that needs no file for it. */
export function ramDirectory({ driver, layout }: HostContext): string | undefined {
  return driver.kind === 'firecracker' ? undefined : layout.memoryRoot;
}

/** The kernel's image in the form that this host's VMM boots. */
export function bootKernel({ artifacts, driver }: HostContext): string {
  const { vmlinuxPath, qemuPath } = artifacts.kernel;
  return driver.kind === 'firecracker' ? vmlinuxPath : qemuPath;
}

/** The VMM, its vCPUs running. */
export async function startMachine(
  context: CreateContext,
  image: BaseImage,
  slot: NetworkSlot,
): Promise<MicroVm> {
  const { host, id, spec, stack } = context;
  const { artifacts } = host;
  const parts: MachineParts = {
    vcpus: spec.vcpus,
    memoryMiB: spec.memoryMiB,
    kernelPath: bootKernel(host),
    initramfsPath: artifacts.initramfsPath,
    drives: [
      { id: GUEST_DRIVES.base.id, path: image.path, readOnly: true },
      { id: GUEST_DRIVES.agent.id, path: artifacts.agentDrivePath, readOnly: true },
    ],
  };
  const vm = await host.driver.start(machineSpec(context, slot, parts));
  await holdMachine(host, id, vm, stack);
  return vm;
}

/** Registers the release of a VMM that runs, started or adopted. */
export async function holdMachine(
  host: Pick<HostContext, 'journal'>,
  id: string,
  vm: MicroVm,
  stack: AsyncDisposableStack,
): Promise<void> {
  const { pid, startTimeTicks } = vm.description;
  const identity = { kind: 'process', pid, startTimeTicks } as const;
  stack.defer(async () => {
    await vm.kill();
    await vm.exited;
    await host.journal.forget(identity);
  });
  await host.journal.record(id, identity);
}

/** The agent's connection to the guest in this slot. */
export function connectGuest(host: HostContext, id: string, slot: NetworkSlot): GuestClient {
  return new GuestClient({
    sandboxId: id,
    baseUrl: host.guestUrl(slot),
    accessToken: host.secrets.accessToken(id),
  });
}

/** What a guest is told of itself, beyond what follows from the sandbox. */
export interface GuestIdentity {
  readonly environment: Readonly<Record<string, string>>;
  /** Of the image; a sandbox may say otherwise. */
  readonly defaultUser?: string | undefined;
  /** Whose guest it was when it was frozen: only its token lets anybody change it. */
  readonly previousSandboxId?: string | undefined;
}

/**
 * Makes the booted guest this sandbox: clock, entropy, token, environment, names.
 * Nothing may use the guest before this has succeeded.
 */
export async function initGuest(
  { host, id, spec }: CreateContext,
  guest: GuestClient,
  identity: GuestIdentity,
): Promise<void> {
  const { environment, previousSandboxId } = identity;
  const defaultUser = spec.defaultUser || identity.defaultUser;
  await guest.init(
    {
      accessToken: host.secrets.accessToken(id),
      envVars: { ...environment },
      timestamp: new Date().toISOString(),
      ...(defaultUser === undefined ? {} : { defaultUser }),
      hostname: spec.hostname,
      machineId: host.secrets.machineId(id),
      entropy: randomBytes(64).toString('base64'),
      nameservers: [...host.nameservers],
    },
    {
      timeoutMs: host.stepTimeoutMs,
      ...(previousSandboxId === undefined
        ? {}
        : { proof: host.secrets.accessToken(previousSandboxId) }),
    },
  );
}
