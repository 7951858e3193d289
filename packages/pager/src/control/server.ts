import { chmodSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { LoopThread } from '../fault-loop/loop-thread.ts';
import type { LoopEvent, Release } from '../fault-loop/messages.ts';
import { log } from '../log.ts';
import { readLines } from './lines.ts';
import {
  MAX_LINE_BYTES,
  PAGER_PROTOCOL_VERSION,
  type PagerEvent,
  type PagerHello,
  type PagerRequest,
  pagerRequestSchema,
  type ServedVmStatus,
  type VmDescription,
} from './protocol.ts';

interface Entry {
  status: ServedVmStatus;
  readonly loop: LoopThread;
  /** Its loop has been asked to release it. */
  stopping: boolean;
}

export interface PagerServerOptions {
  readonly socketPath: string;
  /** Fault loops; VMs are spread over them. */
  readonly threads: number;
  /** Called after the last client asked to shut down. */
  readonly onShutdown: () => void;
}

/**
 * The control side of the pager: it tracks which fault loop serves which VM, and handles the
 * requests of the host agent. It keeps its VMs when an agent exits.
 */
export class PagerServer {
  readonly #options: PagerServerOptions;
  readonly #server: Server;
  readonly #clients = new Set<Socket>();
  readonly #vms = new Map<string, Entry>();
  readonly #loops: LoopThread[] = [];
  readonly #listening = new Map<string, PromiseWithResolvers<void>>();
  readonly #descriptions = new Map<number, PromiseWithResolvers<VmDescription>>();
  #nextRequestId = 1;

  private constructor(options: PagerServerOptions) {
    this.#options = options;
    this.#server = createServer((socket) => this.#welcome(socket));
  }

  /** Listens; throws if another pager does so at the same path already. */
  static async start(options: PagerServerOptions): Promise<PagerServer> {
    const server = new PagerServer(options);
    for (let index = 0; index < options.threads; index++) {
      const loop = await LoopThread.start(
        (event) => server.#onLoopEvent(event),
        // Its VMs would hang forever; agents notice the exit of the process at once.
        (reason) => {
          log('error', 'Fault loop exited', { reason });
          // An exit would wait for the other threads, which block in ppoll(2).
          process.kill(process.pid, 'SIGKILL');
        },
      );
      server.#loops.push(loop);
    }
    rmSync(options.socketPath, { force: true });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.#server.once('error', reject);
    server.#server.listen(options.socketPath, resolve);
    await promise;
    chmodSync(options.socketPath, 0o600);
    return server;
  }

  #welcome(socket: Socket): void {
    this.#clients.add(socket);
    socket.on('close', () => this.#clients.delete(socket));
    socket.on('error', () => socket.destroy());
    readLines(socket, MAX_LINE_BYTES, (line) => void this.#handle(socket, line));
  }

  async #handle(socket: Socket, line: string): Promise<void> {
    let request: PagerRequest;
    try {
      request = pagerRequestSchema.parse(JSON.parse(line));
    } catch {
      socket.destroy();
      return;
    }
    try {
      const result = await this.#perform(request);
      send(socket, { id: request.id, result: result ?? null });
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      send(socket, { id: request.id, error: message });
    }
  }

  #perform(request: PagerRequest): unknown {
    switch (request.op) {
      case 'hello':
        return this.#hello();
      case 'serve':
        return this.#serve(request);
      case 'materialise':
        return this.#entry(request.vm).loop.request({ kind: 'materialise', vm: request.vm });
      case 'describe':
        return this.#describe(request.vm);
      case 'stop':
        return this.#stop(request.vm);
      case 'shutdown':
        return this.#shutdown();
    }
  }

  #hello(): PagerHello {
    const vms = [...this.#vms.values()].map((entry) => entry.status);
    return { protocolVersion: PAGER_PROTOCOL_VERSION, pid: process.pid, vms };
  }

  /** Resolves when the VMM may connect. */
  async #serve(request: Extract<PagerRequest, { op: 'serve' }>): Promise<void> {
    const { vm, socketPath, headerPath, diffPaths, workingSet, connectTimeoutMs } = request;
    if (this.#vms.has(vm)) throw new Error(`VM ${vm} is already being served.`);
    const loop = this.#leastLoaded();
    this.#vms.set(vm, { status: { vm, state: 'waiting' }, loop, stopping: false });
    const listening = Promise.withResolvers<void>();
    this.#listening.set(vm, listening);
    loop.request({
      kind: 'serve',
      vm,
      socketPath,
      headerPath,
      diffPaths,
      connectTimeoutMs,
      ...(workingSet === undefined ? {} : { workingSet: Uint32Array.from(workingSet) }),
    });
    await listening.promise;
  }

  #leastLoaded(): LoopThread {
    const load = new Map<LoopThread, number>(this.#loops.map((loop) => [loop, 0]));
    for (const { loop } of this.#vms.values()) load.set(loop, (load.get(loop) ?? 0) + 1);
    const [least] = [...load].sort(([, a], [, b]) => a - b);
    if (least === undefined) throw new Error('The pager has no fault loop.');
    return least[0];
  }

  #describe(vm: string): Promise<VmDescription> {
    const requestId = this.#nextRequestId++;
    const description = Promise.withResolvers<VmDescription>();
    this.#descriptions.set(requestId, description);
    this.#entry(vm).loop.request({ kind: 'describe', vm, requestId });
    return description.promise;
  }

  #stop(vm: string): void {
    const entry = this.#vms.get(vm);
    if (entry?.status.state === 'failed') this.#vms.delete(vm);
    else if (entry !== undefined) {
      entry.stopping = true;
      entry.loop.request({ kind: 'stop', vm });
    }
  }

  #shutdown(): void {
    const serving = [...this.#vms.values()].filter(
      ({ status, stopping }) => status.state !== 'failed' && !stopping,
    );
    if (serving.length > 0) throw new Error(`The pager still serves ${serving.length} VMs.`);
    setImmediate(async () => {
      await Promise.all(this.#loops.map((loop) => loop.quit()));
      this.#options.onShutdown();
    });
  }

  #entry(vm: string): Entry {
    const entry = this.#vms.get(vm);
    if (entry === undefined) throw new Error(`VM ${vm} is not served.`);
    return entry;
  }

  #onLoopEvent(event: LoopEvent): void {
    const entry = this.#vms.get(event.vm);
    switch (event.kind) {
      case 'listening':
        this.#listening.get(event.vm)?.resolve();
        this.#listening.delete(event.vm);
        return;
      case 'connected':
        if (entry) entry.status = { vm: event.vm, state: 'serving', pid: event.pid };
        log('info', 'VMM connected', { vm: event.vm, vmmPid: event.pid });
        this.#broadcast({ event: 'connected', vm: event.vm, pid: event.pid });
        return;
      case 'materialised':
        this.#broadcast({ event: 'materialised', vm: event.vm });
        return;
      case 'released':
        this.#vms.delete(event.vm);
        logRelease(event.vm, event.release);
        this.#broadcast({ event: 'released', vm: event.vm });
        return;
      case 'failed':
        this.#onFailure(event.vm, event.reason, entry);
        return;
      case 'described':
        this.#descriptions
          .get(event.requestId)
          ?.resolve({ statistics: event.statistics, workingSet: [...event.workingSet] });
        this.#descriptions.delete(event.requestId);
    }
  }

  /** A VM that failed is kept until it is stopped, so that a later agent can read why. */
  #onFailure(vm: string, reason: string, entry: Entry | undefined): void {
    const listening = this.#listening.get(vm);
    this.#listening.delete(vm);
    if (listening !== undefined) {
      this.#vms.delete(vm);
      listening.reject(new Error(reason));
      return;
    }
    if (entry) entry.status = { vm, state: 'failed', reason };
    log('error', 'VM failed', { vm, reason });
    this.#broadcast({ event: 'failed', vm, reason });
  }

  #broadcast(event: PagerEvent): void {
    for (const client of this.#clients) send(client, event);
  }
}

function logRelease(vm: string, release: Release): void {
  const exit = release.cause === 'vmm-exited' ? release.exit : undefined;
  log('info', 'VM released', { vm, cause: release.cause, ...exit });
}

function send(socket: Socket, message: object): void {
  socket.write(`${JSON.stringify(message)}\n`);
}
