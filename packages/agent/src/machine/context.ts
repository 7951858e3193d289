import { mkdir, rm } from 'node:fs/promises';
import { TorporError } from '@torpor/protocol';
import type { MicroVm } from '@torpor/vmm';
import { GuestClient } from '../guest/guest-client.ts';
import type { HostContext } from '../host-context.ts';
import type { NetworkSlot } from '../network/slot.ts';
import type { PhaseTimer } from '../phase-timer.ts';

/*
 * The steps common to boot, restore and adopt. Each step records its resource in the journal
 * before it creates it, so after a crash at any point the next start knows of it, and registers
 * the release on the stack at once, so a later failure unwinds the steps in reverse.
 */

/** The part of a sandbox's spec that its machine and guest depend on. */
export interface GuestSpec {
  readonly vcpus: number;
  readonly memoryMiB: number;
  readonly diskSizeMiB: number;
  /** Name of the image, or id of the snapshot. */
  readonly templateId: string;
  /** The image's if omitted. */
  readonly defaultUser?: string | undefined;
  readonly allowInternet: boolean;
  readonly hostname: string;
}

/** The parameters for starting a machine, by boot or restore. */
export interface MachineRequest {
  readonly host: HostContext;
  /** The sandbox whose machine it is. */
  readonly id: string;
  readonly spec: GuestSpec;
  /** User and group id of the VMM. */
  readonly uid: number;
  /** Index of the network slot that the sandbox had before. */
  readonly preferredSlot?: number | undefined;
  readonly environment: Readonly<Record<string, string>>;
  /** Cancels it, with the signal's reason. */
  readonly signal: AbortSignal;
  readonly timer: PhaseTimer;
}

/** A machine that is being started. */
export interface MachineContext extends MachineRequest {
  /** The releases of the resources that the steps create. */
  readonly stack: AsyncDisposableStack;
}

/** A namespace with a tap device. The pool records the slot in the journal. */
export async function acquireSlot(context: MachineContext): Promise<NetworkSlot> {
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

/** The run directory, and the directory of guest RAM, for the VMM driver. */
export async function makeRunFiles({ host, id, stack }: MachineContext): Promise<void> {
  const { directory, memory } = runFiles(host, id);
  await host.journal.record(id, directory);
  stack.defer(async () => {
    await rm(directory.path, { recursive: true, force: true });
    await host.journal.forget(directory);
  });
  await mkdir(directory.path, { mode: 0o700 });
  await host.journal.record(id, memory);
  stack.defer(async () => {
    await rm(memory.path, { force: true });
    await host.journal.forget(memory);
  });
}

/** Removes what {@link makeRunFiles} made. */
export async function removeRunFiles(
  host: Pick<HostContext, 'layout' | 'journal'>,
  id: string,
): Promise<void> {
  const { directory, memory } = runFiles(host, id);
  await rm(directory.path, { recursive: true, force: true });
  await host.journal.forget(directory);
  await rm(memory.path, { force: true });
  await host.journal.forget(memory);
}

function runFiles({ layout }: Pick<HostContext, 'layout'>, id: string) {
  return {
    directory: { kind: 'directory', path: layout.runDirectory(id) },
    memory: { kind: 'file', path: layout.memoryFile(id) },
  } as const;
}

/** Registers the release of a running VMM, started or adopted. */
export async function holdMachine(
  { host, id, stack }: Pick<MachineContext, 'host' | 'id' | 'stack'>,
  vm: MicroVm,
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
export function connectGuest(
  { host, id, stack }: Pick<MachineContext, 'host' | 'id' | 'stack'>,
  slot: NetworkSlot,
): GuestClient {
  const guest = new GuestClient({
    sandboxId: id,
    baseUrl: host.guestUrl(slot),
    accessToken: host.secrets.accessToken(id),
  });
  stack.defer(() =>
    guest.close(new TorporError('invalid_state', `Sandbox ${id} has been destroyed.`)),
  );
  return guest;
}
