import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const RECORD_TIMEOUT_MS = 120_000;

/** The recorded working set of one build, which a benchmark removes and restores. */
export class WorkingSetFile {
  readonly #path: string;
  #content: string | undefined;

  constructor(dataDir: string, buildId: string) {
    this.#path = join(dataDir, 'working-sets', `${buildId}.json`);
  }

  /** Waits until the host agent has recorded it. */
  async recorded(): Promise<void> {
    const deadline = performance.now() + RECORD_TIMEOUT_MS;
    while (this.#content === undefined) {
      this.#content = await readFile(this.#path, 'utf8').catch(() => undefined);
      if (performance.now() > deadline) throw new Error(`${this.#path} was never recorded.`);
      await delay(100);
    }
  }

  async use(prefetch: boolean): Promise<void> {
    if (!prefetch) await rm(this.#path, { force: true });
    else if (this.#content !== undefined) await writeFile(this.#path, this.#content);
  }
}
