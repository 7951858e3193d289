import type { Sandbox } from '@torpor/sdk';
import { type OpenDataDir, Platform } from './platform.ts';

/** One platform with one sandbox for all benchmarks of a run that need no fresh one; created at first use. */
export class SharedPlatform implements AsyncDisposable {
  readonly #openDataDir: OpenDataDir | undefined;
  #platform: Promise<Platform> | undefined;
  #sandbox: Promise<Sandbox> | undefined;

  /** With an empty data directory, unless another is given. */
  constructor(openDataDir?: OpenDataDir) {
    this.#openDataDir = openDataDir;
  }

  platform(): Promise<Platform> {
    this.#platform ??= Platform.start(this.#openDataDir);
    return this.#platform;
  }

  sandbox(): Promise<Sandbox> {
    this.#sandbox ??= this.platform().then(createRestored);
    return this.#sandbox;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const platform = await this.#platform?.catch(() => undefined);
    await platform?.[Symbol.asyncDispose]();
  }
}

/** Creates a typical sandbox: the first of its shape boots, and this one is restored from the kept boot. */
async function createRestored(platform: Platform): Promise<Sandbox> {
  await (await platform.create()).destroy();
  return platform.create();
}
