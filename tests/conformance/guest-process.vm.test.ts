import { randomBytes } from 'node:crypto';
import { GUEST, type InitRequest } from '@torpor/protocol';
import { afterAll, beforeAll, describe } from 'vitest';
import { GuestUnderTest } from '../images/guest-under-test.ts';
import { relayIntoNamespace } from '../support/namespace-relay.ts';
import { describeGit } from './git.ts';
import type { ConformanceTarget } from './harness.ts';
import { describeProcesses } from './process.ts';
import { describeGuest } from './process-guest.ts';
import { describePty } from './pty.ts';

const ACCESS_TOKEN = 'the secret of this guest';

describe('the processes of a guest', () => {
  let stack: AsyncDisposableStack;
  let target: ConformanceTarget;

  beforeAll(async () => {
    stack = new AsyncDisposableStack();
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
    target = {
      url,
      accessToken: ACCESS_TOKEN,
      user: GUEST.defaultUser,
      workdir: `/home/${GUEST.defaultUser}`,
      isGuest: true,
    };
  });

  afterAll(async () => {
    await stack?.disposeAsync();
  });

  describeGuest(() => target);
  describeProcesses(() => target);
  describePty(() => target);
  describeGit(() => target);
});
