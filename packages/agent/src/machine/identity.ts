import { randomBytes } from 'node:crypto';
import { TorporError } from '@torpor/protocol';
import type { MicroVm } from '@torpor/vmm';
import type { GuestClient } from '../guest/guest-client.ts';
import type { HostContext } from '../host-context.ts';
import type { MachineContext } from './context.ts';
import { waitForGuest } from './wait-for-guest.ts';

/** The identity of a guest, beyond what follows from the sandbox. */
export interface GuestIdentity {
  readonly environment: Readonly<Record<string, string>>;
  /** The image's default; a sandbox may have another. */
  readonly defaultUser?: string | undefined;
  /** The sandbox of the guest when it was committed: only its token authorises a change. */
  readonly previousSandboxId?: string | undefined;
}

/**
 * Gives a booted or restored guest the identity of this sandbox (`POST /init`): clock, entropy,
 * token, environment, names. The guest must not be used before this has succeeded.
 */
export async function initGuest(
  { host, id, spec }: MachineContext,
  guest: GuestClient,
  identity: GuestIdentity,
): Promise<void> {
  const { environment, previousSandboxId } = identity;
  const defaultUser = spec.defaultUser ?? identity.defaultUser;
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

/** Waits for a guest as {@link waitForGuest} does; throws `vmm_failed` if its memory could not be served. */
export async function guestReady(
  { guestTimeoutMs }: Pick<HostContext, 'guestTimeoutMs'>,
  machine: {
    readonly vm: MicroVm;
    readonly guest: GuestClient;
    readonly fault: () => string | undefined;
  },
  signal: AbortSignal,
): Promise<void> {
  const { vm, guest, fault } = machine;
  try {
    await waitForGuest({ vm, guest, timeoutMs: guestTimeoutMs, signal });
  } catch (error) {
    const reason = fault();
    if (reason === undefined) throw error;
    throw new TorporError('vmm_failed', reason, { cause: error });
  }
}
