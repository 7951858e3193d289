import { setTimeout as sleep } from 'node:timers/promises';
import {
  connectPager,
  isNotListening,
  PagerClient,
  type PagerEvent,
  type PagerHello,
  type ServedVmStatus,
  type VmDescription,
} from '@torpor/pager';
import { TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import type { PageService, PageServiceRequest } from '../host-context.ts';

const SHUTDOWN_TIMEOUT_MS = 2_000;

export interface PageServerOptions {
  /** The pager's control socket. */
  readonly socketPath: string;
  readonly logPath: string;
  readonly logger: Logger;
}

/**
 * This host's pager, a separate process that outlives the agent. It is started on first use.
 */
export class PageServer implements PageService {
  readonly #options: PageServerOptions;
  readonly #failures = new Map<string, (reason: string) => void>();
  #client: Promise<PagerClient> | undefined;
  #closing = false;

  constructor(options: PageServerOptions) {
    this.#options = options;
  }

  async serve(request: PageServiceRequest, onFailure: (reason: string) => void): Promise<void> {
    const client = await this.#connect();
    this.#failures.set(request.vm, onFailure);
    try {
      await client.serve(request);
    } catch (error) {
      this.#failures.delete(request.vm);
      throw failure(error);
    }
  }

  async adopt(vm: string, onFailure: (reason: string) => void): Promise<void> {
    // Registered first: an earlier failure is in the pager's list, a later one is an event.
    this.#failures.set(vm, onFailure);
    try {
      const status = await this.#statusOf(vm);
      if (status === undefined) {
        throw new TorporError('vmm_failed', 'The page server that held its memory exited.');
      }
      if (status.state === 'failed') {
        throw new TorporError('vmm_failed', status.reason ?? 'Its memory could not be served.');
      }
    } catch (error) {
      this.#failures.delete(vm);
      throw error;
    }
  }

  /** The pager's status of a VM; undefined if there is no pager, or it does not know the VM. */
  async #statusOf(vm: string): Promise<ServedVmStatus | undefined> {
    let hello: PagerHello;
    try {
      // It lists its VMs when a client connects. No new pager is started: it would have none.
      const found = await PagerClient.connect(this.#options.socketPath);
      found.client.close();
      await this.#connect();
      const asked = await PagerClient.connect(this.#options.socketPath);
      asked.client.close();
      hello = asked.hello;
    } catch (error) {
      if (isNotListening(error)) return undefined;
      throw failure(error);
    }
    return hello.vms.find((served) => served.vm === vm);
  }

  async describe(vm: string): Promise<VmDescription | undefined> {
    if (!this.#failures.has(vm)) return undefined;
    try {
      const description = await (await this.#connect()).describe(vm);
      return description.workingSet.length === 0 ? undefined : description;
    } catch {
      return undefined;
    }
  }

  async release(vm: string): Promise<void> {
    if (!this.#failures.delete(vm) || this.#client === undefined) return;
    try {
      await (await this.#client).stop(vm);
    } catch (error) {
      this.#options.logger.warn({ vm, err: error }, 'Pager did not release a VM');
    }
  }

  /** Disconnects from the pager, which exits if it serves no VM; even if an earlier agent started it. */
  async close(): Promise<void> {
    this.#closing = true;
    const client = await (this.#client ?? this.#found()).catch(() => undefined);
    if (client !== undefined) await this.#shutDown(client);
    client?.close();
    await client?.closed;
  }

  /** The pager, if it is running. */
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
        // It serves VMs that keep running, or has not released the last ones yet.
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
      logger.info({ pid: hello.pid, started, vms: hello.vms.length }, 'Pager connected');
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
      this.#fail(vm, 'The page server that held its memory exited.');
    }
  }

  #fail(vm: string, reason: string): void {
    const onFailure = this.#failures.get(vm);
    this.#failures.delete(vm);
    onFailure?.(reason);
  }
}

function failure(error: unknown): TorporError {
  const message = error instanceof Error ? error.message : String(error);
  return new TorporError('vmm_failed', `The page server refused the request: ${message}`, {
    cause: error,
  });
}
