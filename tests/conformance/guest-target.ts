import { randomBytes } from 'node:crypto';
import { GUEST, type InitRequest } from '@torpor/protocol';
import { GuestUnderTest } from '../images/guest-under-test.ts';
import { relayIntoNamespace } from '../support/namespace-relay.ts';
import type { ConformanceTarget } from './harness.ts';

const ACCESS_TOKEN = 'the secret of this guest';

/** The daemon of a real guest, which is ready and has its identity; `stack` ends the guest. */
export async function bootTarget(stack: AsyncDisposableStack): Promise<ConformanceTarget> {
  let namespace = '';
  const guest = stack.use(
    await GuestUnderTest.boot((spec) => {
      namespace = spec.network?.namespace ?? '';
      return spec;
    }),
  );
  await guest.healthy();
  const relay = stack.use(await relayIntoNamespace(namespace, GUEST.address, GUEST.envdPort));
  const url = `http://127.0.0.1:${relay.port}`;
  const request: InitRequest = {
    accessToken: ACCESS_TOKEN,
    defaultUser: GUEST.defaultUser,
    timestamp: new Date().toISOString(),
    entropy: randomBytes(64).toString('base64'),
    hostname: 'conformance',
    machineId: 'c0'.repeat(16),
  };
  const init = await fetch(`${url}/init`, { method: 'POST', body: JSON.stringify(request) });
  if (init.status !== 204) throw new Error(`/init: ${init.status} ${await init.text()}`);
  return {
    url,
    accessToken: ACCESS_TOKEN,
    user: GUEST.defaultUser,
    workdir: `/home/${GUEST.defaultUser}`,
    isGuest: true,
  };
}
