import type { HostContext } from '../host-context.ts';

/** Sandboxes that are destroyed within this time share one collection. */
const COLLECT_AFTER_MS = 2_000;

export interface Collection {
  readonly removedBuildIds: readonly string[];
  readonly freedBytes: number;
}

/** Removes the builds that nothing reaches. */
export async function collectBuilds(host: HostContext): Promise<Collection> {
  const { builds } = host;
  const sizes = new Map<string, number>();
  for (const id of await builds.list()) sizes.set(id, await builds.size(id));
  const removedBuildIds = await builds.collect();
  const freedBytes = removedBuildIds.reduce((sum, id) => sum + (sizes.get(id) ?? 0), 0);
  return { removedBuildIds, freedBytes };
}

/** Collects builds some time after one may have become unreferenced. */
export class BuildCollector {
  readonly #host: HostContext;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(host: HostContext) {
    this.#host = host;
  }

  /** A build may be unreachable now. */
  soon(): void {
    if (this.#closed || this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      const before = this.#running;
      this.#running = this.#collect().then(() => before);
    }, COLLECT_AFTER_MS).unref();
  }

  /** Starts no further collection, and waits for those in progress. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#running;
  }

  async #collect(): Promise<void> {
    const { logger } = this.#host;
    try {
      const { removedBuildIds, freedBytes } = await collectBuilds(this.#host);
      if (removedBuildIds.length === 0) return;
      logger.info({ removedBuildIds, freedBytes }, 'Builds collected');
    } catch (error) {
      logger.error({ err: error }, 'Builds not collected');
    }
  }
}
