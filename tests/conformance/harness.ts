import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ENVD_VERSION, type EnvdOptions, startEnvd } from '@torpor/envd';
import { Sandbox } from 'e2b';

/** An envd that the suites run against, on this host or in a guest. */
export interface ConformanceTarget {
  /** The base URL of envd, without a path. */
  readonly url: string;
  /** Its token; not set if `/init` set none. */
  readonly accessToken?: string;
  /** The default account of requests. */
  readonly user: string;
  /** The working directory of commands and relative paths of that account, as envd sees it. */
  readonly workdir: string;
  /** Whether this is a guest: with the account `user`, its own clock, host name and addresses. */
  readonly isGuest: boolean;
}

/** The target is known only once a suite's hooks have run. */
export type TargetSource = () => ConformanceTarget;

const ANY_API_KEY = `e2b_${'0'.repeat(40)}`;

/** The official client, in its debug mode, bound to the target. */
export function sandboxOf({ url, accessToken }: ConformanceTarget): Sandbox {
  return new Sandbox({
    sandboxId: 'debug_sandbox_id',
    debug: true,
    apiKey: ANY_API_KEY,
    sandboxUrl: url,
    envdVersion: ENVD_VERSION,
    ...(accessToken === undefined ? {} : { envdAccessToken: accessToken }),
  });
}

export interface HostTarget extends AsyncDisposable {
  readonly target: ConformanceTarget;
}

/**
 * Starts envd on this machine for the tests, with a separate home directory, so
 * that the machine's accounts are neither read nor written.
 */
export async function startHostTarget(options: EnvdOptions = {}): Promise<HostTarget> {
  await using stack = new AsyncDisposableStack();
  const home = await mkdtemp(join(tmpdir(), 'torpor-conformance-'));
  stack.defer(() => rm(home, { recursive: true, force: true }));
  const user = process.env.USER ?? 'root';
  const envd = stack.use(
    await startEnvd({ port: 0, defaultUser: user, defaultWorkdir: home, ...options }),
  );
  const url = `http://127.0.0.1:${envd.port}`;
  const envVars = { HOME: home, GIT_CONFIG_NOSYSTEM: '1' };
  const init = await fetch(`${url}/init`, {
    method: 'POST',
    body: JSON.stringify({ envVars }),
    headers: options.accessToken === undefined ? {} : { 'X-Access-Token': options.accessToken },
  });
  if (init.status !== 204) throw new Error(`/init: ${init.status} ${await init.text()}`);
  const kept = stack.move();
  return {
    target: {
      url,
      user,
      workdir: home,
      isGuest: false,
      ...(options.accessToken === undefined ? {} : { accessToken: options.accessToken }),
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** Polls until `condition` holds; throws with `what` after `timeoutMs`. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  timeoutMs = 30_000,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`timed out waiting until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
