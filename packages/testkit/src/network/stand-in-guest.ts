import { randomBytes } from 'node:crypto';
import { ipBatch } from '@torpor/linux';
import { GUEST } from '@torpor/protocol';
import { type Listener, startListener, visitFrom } from './isolation-probe.ts';
import type { Outcome, ProbeRequest } from './probe-request.ts';

/** A namespace instead of a guest, with the guest's addresses. */
export interface StandInGuest extends AsyncDisposable {
  readonly namespace: string;
  /** Listens on envd's address. */
  readonly service: Listener;
  visit(request: ProbeRequest): Promise<Outcome[]>;
}

/**
 * Replaces the guest of a slot with a namespace. The tap becomes one end of a veth pair with
 * the same name and addresses, so that the slot's rules, which match its name, apply to what
 * the stand-in sends. It is root in its namespace, as untrusted code is in a guest.
 */
export async function attachStandInGuest(slot: {
  readonly namespace: string;
  readonly tapDevice: string;
}): Promise<StandInGuest> {
  await using stack = new AsyncDisposableStack();
  const namespace = `tpt-guest-${randomBytes(3).toString('hex')}`;
  await ipBatch([`netns add ${namespace}`]);
  stack.defer(() => ipBatch([`netns del ${namespace}`]));
  const { tapDevice } = slot;
  const { address, gateway, prefixLength, macAddress, interfaceName } = GUEST;
  await ipBatch(
    [
      `link del ${tapDevice}`,
      `link add name ${tapDevice} type veth peer name ${interfaceName} address ${macAddress} netns ${namespace}`,
      `addr add ${gateway}/${prefixLength} dev ${tapDevice}`,
      `link set ${tapDevice} up`,
    ],
    { namespace: slot.namespace },
  );
  await ipBatch(
    [
      'link set lo up',
      `addr add ${address}/${prefixLength} dev ${interfaceName}`,
      `addr add 2001:db8:2::21/64 dev ${interfaceName} nodad`,
      `link set ${interfaceName} up`,
      `route add default via ${gateway}`,
      'route add default via 2001:db8:2::22',
    ],
    { namespace },
  );
  const service = stack.use(await startListener(namespace, GUEST.envdPort));
  const resources = stack.move();
  return {
    namespace,
    service,
    visit: (request) => visitFrom(namespace, request),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}
