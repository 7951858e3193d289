import {
  instanceNames,
  listSlots,
  releaseAddressBlock,
  removeHostFirewall,
  removeSlot,
} from '@torpor/agent/testing';

export interface InstanceOptions {
  /** Tag of the data directory: six characters of `[a-z0-9]`. */
  readonly instance: string;
  /** The namespace that stands in for the host; the caller's own if omitted. */
  readonly hostNamespace?: string | undefined;
}

/**
 * The indices of the slots of which a namespace or a link exists on this machine,
 * whole or half-made, in use or not.
 */
export async function listInstanceSlots(options: InstanceOptions): Promise<number[]> {
  return listSlots(instanceNames(options.instance), options.hostNamespace);
}

/**
 * Removes everything of an instance from the machine: all slots, also those in use, the
 * firewall table and the claim on its addresses. Idempotent. IPv4 forwarding stays on, since
 * other software may depend on it by now.
 */
export async function removeInstance(
  options: InstanceOptions & { readonly stateFile: string },
): Promise<void> {
  const { hostNamespace } = options;
  const names = instanceNames(options.instance);
  for (const index of await listSlots(names, hostNamespace)) {
    await removeSlot(names, index, hostNamespace);
  }
  await removeHostFirewall(names, hostNamespace);
  await releaseAddressBlock(options.stateFile, hostNamespace);
}
