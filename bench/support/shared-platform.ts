import type { Sandbox } from '@torpor/sdk';
import { Platform } from './platform.ts';

/** One platform with one sandbox for all benchmarks of a run that need no fresh one; made at first use. */
export class SharedPlatform implements AsyncDisposable {
  #platform: Promise<Platform> | undefined;
  #sandbox: Promise<Sandbox> | undefined;

  platform(): Promise<Platform> {
    this.#platform ??= Platform.start();
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

/** A sandbox as most are: the first of its shape boots, and this one is restored from what is kept of it. */
async function createRestored(platform: Platform): Promise<Sandbox> {
  await (await platform.create()).destroy();
  return platform.create();
}
