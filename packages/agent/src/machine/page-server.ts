import { setTimeout as sleep } from 'node:timers/promises';
import {
  connectPager,
  PagerClient,
  type PagerEvent,
  type PagerHello,
  type ServedVmStatus,
  type VmDescription,
} from '@torpor/pager';
import { TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';

const SHUTDOWN_TIMEOUT_MS = 2_000;

export interface PageServerOptions {
  /** The pager's control socket. */
  readonly socketPath: string;
  readonly logPath: string;
  readonly logger: Logger;
}

export interface PageServerRequest {
  /** Names the VM at the pager; never used twice. */
  readonly vm: string;
  readonly socketPath: string;
  readonly headerPath: string;
  readonly diffPaths: Readonly<Record<string, string>>;
  readonly workingSet?: readonly number[];
  /** How long the VMM may take to connect. */
  readonly connectTimeoutMs: number;
}

/**
 * This host's pager, a process of its own that outlives the agent. It is started
 * when it is first needed. A VM whose pages can be served no longer hangs for ever,
 * so whoever had it served is told at once.
 */
export class PageServer {
  readonly #options: PageServerOptions;
  readonly #failures = new Map<string, (reason: string) => void>();
  #client: Promise<PagerClient> | undefined;
  #closing = false;

  constructor(options: PageServerOptions) {
    this.#options = options;
  }

  /**
   * Has a VM served; resolves when its VMM may connect. `onFailure` is called at most
   * once, if its pages can no longer be served. Throws `vmm_failed` with the pager's words.
   */
  async serve(request: PageServerRequest, onFailure: (reason: string) => void): Promise<void> {
    const client = await this.#connect();
    this.#failures.set(request.vm, onFailure);
    try {
      await client.serve(request);
    } catch (error) {
      this.#failures.delete(request.vm);
      throw failure(error);
    }
  }

  /**
   * Takes over a VM that an earlier agent had served. Throws `vmm_failed` if the pager
   * no longer serves it: then its guest hangs, and must be ended.
   */
  async adopt(vm: string, onFailure: (reason: string) => void): Promise<void> {
    // Heard of from now on: what happened before is in the pager's state, the rest is an event.
    this.#failures.set(vm, onFailure);
    try {
      const status = await this.#statusOf(vm);
      if (status === undefined) {
        throw new TorporError('vmm_failed', 'The page server that held its memory has ended.');
      }
      if (status.state === 'failed') {
        throw new TorporError('vmm_failed', status.reason ?? 'Its memory could not be served.');
      }
    } catch (error) {
      this.#failures.delete(vm);
      throw error;
    }
  }

  /** What the running pager says of a VM; undefined if there is no pager, or it does not know the VM. */
  async #statusOf(vm: string): Promise<ServedVmStatus | undefined> {
    let hello: PagerHello;
    try {
      // It says what it serves whenever one connects. No new one is started: it would know nothing.
      const found = await PagerClient.connect(this.#options.socketPath);
      found.client.close();
      await this.#connect();
      const asked = await PagerClient.connect(this.#options.socketPath);
      asked.client.close();
      hello = asked.hello;
    } catch (error) {
      if (isAbsent(error)) return undefined;
      throw failure(error);
    }
    return hello.vms.find((served) => served.vm === vm);
  }

  /** What the pager has done for a VM so far; undefined if that is nothing. */
  async describe(vm: string): Promise<VmDescription | undefined> {
    if (!this.#failures.has(vm)) return undefined;
    try {
      const description = await (await this.#connect()).describe(vm);
      return description.workingSet.length === 0 ? undefined : description;
    } catch {
      return undefined;
    }
  }

  /** The VM has ended, or is about to. Idempotent. */
  async release(vm: string): Promise<void> {
    if (!this.#failures.delete(vm) || this.#client === undefined) return;
    try {
      await (await this.#client).stop(vm);
    } catch (error) {
      this.#options.logger.warn({ vm, err: error }, 'the pager did not let go of a VM');
    }
  }

  /** Lets go of the pager; it ends if it serves nobody, also one that an earlier agent left. */
  async close(): Promise<void> {
    this.#closing = true;
    const client = await (this.#client ?? this.#found()).catch(() => undefined);
    if (client !== undefined) await this.#shutDown(client);
    client?.close();
    await client?.closed;
  }

  /** The pager if it runs. */
  async #found(): Promise<PagerClient> {
    return (await PagerClient.connect(this.#options.socketPath)).client;
  }

  async #shutDown(client: PagerClient): Promise<void> {
    const deadline = performance.now() + SHUTDOWN_TIMEOUT_MS;
    for (;;) {
      try {
        await client.shutdown();
        return;
      } catch {
        // It serves VMs that go on, or is still about to let go of the last ones.
        if (this.#failures.size > 0 || performance.now() > deadline) return;
      }
      await sleep(20);
    }
  }

  #connect(): Promise<PagerClient> {
    this.#client ??= this.#open();
    return this.#client;
  }

  async #open(): Promise<PagerClient> {
    const { socketPath, logPath, logger } = this.#options;
    try {
      const { client, hello, started } = await connectPager({ socketPath, logPath });
      logger.info({ pid: hello.pid, started, vms: hello.vms.length }, 'pager');
      client.onEvent((event) => this.#onEvent(event));
      void client.closed.then(() => this.#onClosed());
      return client;
    } catch (error) {
      this.#client = undefined;
      throw failure(error);
    }
  }

  #onEvent(event: PagerEvent): void {
    if (event.event === 'failed') this.#fail(event.vm, event.reason);
  }

  #onClosed(): void {
    this.#client = undefined;
    if (this.#closing) return;
    for (const vm of [...this.#failures.keys()]) {
      this.#fail(vm, 'The page server that held its memory has ended.');
    }
  }

  #fail(vm: string, reason: string): void {
    const onFailure = this.#failures.get(vm);
    this.#failures.delete(vm);
    onFailure?.(reason);
  }
}

function isAbsent(error: unknown): boolean {
  return (
    error instanceof Error &&
    'code' in error &&
    (error.code === 'ENOENT' || error.code === 'ECONNREFUSED')
  );
}

function failure(error: unknown): TorporError {
  const words = error instanceof Error ? error.message : String(error);
  return new TorporError('vmm_failed', `The page server refused: ${words}`, { cause: error });
}
