import { GUEST } from '@torpor/protocol';
import { afterAll, beforeAll, describe } from 'vitest';
import { GuestUnderTest } from '../images/guest-under-test.ts';
import { relayIntoNamespace } from '../support/namespace-relay.ts';
import { describeFiles } from './files.ts';
import type { ConformanceTarget } from './harness.ts';
import { describeSignedUrls } from './signed-urls.ts';
import { describeWatch } from './watch.ts';

const ACCESS_TOKEN = 'the secret of this guest';

describe('the files of a guest', () => {
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
    const init = await fetch(`${url}/init`, {
      method: 'POST',
      body: JSON.stringify({
        accessToken: ACCESS_TOKEN,
        defaultUser: GUEST.defaultUser,
        timestamp: new Date().toISOString(),
      }),
    });
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

  describeFiles(() => target);
  describeWatch(() => target);
  describeSignedUrls(() => target);
});
