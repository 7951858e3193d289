import { readFileSync, rmSync, statSync } from 'node:fs';
import { BLOCK_SIZE, type Mapping, parseMemoryHeader } from '@torpor/builds';
import {
  acceptUnix,
  closeFd,
  FileMapping,
  killPidfd,
  listenUnix,
  openPidfd,
  peerCredentials,
  receiveWithFds,
  UFFD_EVENT,
  UFFD_GONE,
  UffdEvents,
} from '@torpor/linux';
import { GuestMemory, MAX_COPY_BLOCKS, PageError } from './guest-memory.ts';
import { HandshakeError, parseHandshake } from './handshake.ts';
import type { LoopEvent, LoopRequest } from './messages.ts';
import { FaultCounters } from './statistics.ts';

type ServeRequest = Extract<LoopRequest, { kind: 'serve' }>;

/** 64 regions of 200 bytes each. */
const MAX_HANDSHAKE_BYTES = 64 * 1024;

/** After EAGAIN: the thread of the VMM that changes its memory needs the processor to finish. */
const RETRY_MS = 0.02;

/** Which descriptors had events when the loop last waited. */
interface Readiness {
  isReady(fd: number): boolean;
}

/** A part of RAM that is to be brought ahead of faults; blocks. */
interface Piece {
  readonly first: number;
  readonly count: number;
}

/**
 * One VM within a fault loop: it waits for the VMM to connect, then serves it.
 * Every method returns at once; the loop calls it when a descriptor has events.
 */
export class ServedVm {
  readonly id: string;
  readonly #request: ServeRequest;
  readonly #emit: (event: LoopEvent) => void;
  readonly #events = new UffdEvents();
  readonly #mapping: Mapping;
  readonly #diffs: FileMapping[] = [];
  readonly #deadline: number;
  #listener: number | undefined;
  #connection: number | undefined;
  #pidfd: number | undefined;
  #uffd: number | undefined;
  #memory: GuestMemory | undefined;
  /** Faults that could not be answered yet because RAM was changing under them. */
  #deferred: number[] = [];
  /** Those that are answered now; kept, so that a fault allocates nothing. */
  #faults: number[] = [];
  #pieces: Piece[] = [];
  #materialising = false;
  #ended = false;
  #descriptorChanges = 0;

  /** Opens the build's files and listens. Throws BuildFormatError or SystemError; then nothing is held. */
  constructor(request: ServeRequest, emit: (event: LoopEvent) => void) {
    this.id = request.vm;
    this.#request = request;
    this.#emit = emit;
    this.#deadline = performance.now() + request.connectTimeoutMs;
    try {
      this.#mapping = this.#openBuild();
      rmSync(request.socketPath, { force: true });
      this.#listener = listenUnix(request.socketPath);
    } catch (error) {
      this.#release();
      throw error;
    }
  }

  /** Descriptors whose input this VM waits for. The connection has nothing more to say after its handshake. */
  get descriptors(): number[] {
    const connection = this.#memory === undefined ? this.#connection : undefined;
    const fds = [this.#listener, connection, this.#pidfd, this.#uffd];
    return fds.filter((fd) => fd !== undefined);
  }

  /** How long the loop may wait for descriptors before it calls {@link step}; undefined: for ever. */
  get patienceMs(): number | undefined {
    if (this.#memory === undefined) return Math.max(0, this.#deadline - performance.now()) + 1;
    if (this.#deferred.length > 0) return RETRY_MS;
    return this.#pieces.length > 0 ? 0 : undefined;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /**
   * Does what can be done now. `ready` knows which descriptors had events. Answers
   * whether {@link descriptors} are others now. Never throws.
   */
  step(ready: Readiness): 'same-descriptors' | 'descriptors-changed' {
    const before = this.#descriptorChanges;
    this.#act(ready);
    return this.#descriptorChanges === before ? 'same-descriptors' : 'descriptors-changed';
  }

  #act(ready: Readiness): void {
    try {
      // Each step that closes or opens descriptors ends here: `ready` speaks of the old ones.
      if (this.#has(ready, this.#listener)) {
        this.#accept();
        return;
      }
      if (this.#memory === undefined && this.#has(ready, this.#connection)) {
        this.#handshake();
        return;
      }
      if (this.#has(ready, this.#pidfd)) {
        this.end();
        return;
      }
      if (this.#memory !== undefined) {
        const hasWork = this.#pieces.length > 0 || this.#deferred.length > 0;
        if (hasWork || this.#has(ready, this.#uffd)) this.#serve(this.#memory);
      } else if (performance.now() > this.#deadline) this.#fail('No VMM connected in time.');
    } catch (error) {
      this.#fail(describeFailure(error));
    }
  }

  /** Loads all that is missing; afterwards the VM needs no pager. */
  materialise(): void {
    this.#materialising = true;
    this.#planMaterialisation();
  }

  describe(requestId: number): LoopEvent {
    return describeMemory(this.id, requestId, this.#memory);
  }

  /** Lets go of the VM. Idempotent. */
  end(): void {
    if (this.#ended) return;
    this.#release();
    this.#emit({ kind: 'ended', vm: this.id });
  }

  #openBuild(): Mapping {
    const { headerPath, diffPaths } = this.#request;
    const header = parseMemoryHeader(readFileSync(headerPath), {
      path: headerPath,
      storedBlocks: (id) => {
        const path = diffPaths[id];
        if (path === undefined) return undefined;
        return Math.floor(statSync(path).size / BLOCK_SIZE);
      },
    });
    for (const id of header.mapping.builds) {
      this.#diffs.push(FileMapping.open(diffPaths[id] as string));
    }
    return header.mapping;
  }

  #accept(): void {
    const connection = acceptUnix(this.#listener as number);
    if (connection === undefined) return;
    this.#descriptorChanges++;
    this.#connection = connection;
    closeFd(this.#listener as number);
    this.#listener = undefined;
    rmSync(this.#request.socketPath, { force: true });
    this.#pidfd = openPidfd(peerCredentials(connection).pid);
  }

  #handshake(): void {
    const connection = this.#connection as number;
    const message = receiveWithFds(connection, MAX_HANDSHAKE_BYTES);
    if (message === undefined) return;
    const [uffd, ...others] = message.fds;
    for (const fd of others) closeFd(fd);
    if (uffd === undefined) throw new HandshakeError('The VMM sent no userfaultfd.');
    this.#descriptorChanges++;
    this.#uffd = uffd;
    const regions = parseHandshake(message.bytes, this.#mapping.blockCount * BLOCK_SIZE);
    this.#memory = new GuestMemory({
      uffd,
      regions,
      mapping: this.#mapping,
      diffs: this.#diffs,
    });
    this.#emit({ kind: 'connected', vm: this.id, pid: peerCredentials(connection).pid });
    const { workingSet } = this.#request;
    if (workingSet !== undefined) {
      this.#memory.expect(workingSet);
      this.#pieces = planPrefetch(workingSet);
    }
    this.#planMaterialisation();
  }

  /** Events first, all of them: while one waits, nothing can be installed. */
  #serve(memory: GuestMemory): void {
    const faults = this.#deferred;
    this.#deferred = this.#faults;
    this.#deferred.length = 0;
    this.#faults = faults;
    const began = performance.now();
    if (!this.#readEvents(memory, faults)) {
      this.end();
      return;
    }
    for (const address of faults) {
      const result = memory.serveFault(address);
      if (result === 'gone') {
        this.end();
        return;
      }
      if (result === 'retry') this.#deferred.push(address);
      else memory.counters.addLatency((performance.now() - began) * 1000);
    }
    if (faults.length === 0) this.#prefetchNext(memory);
  }

  #readEvents(memory: GuestMemory, faults: number[]): boolean {
    const count = this.#events.read(this.#uffd as number);
    if (count === UFFD_GONE) return false;
    for (let index = 0; index < count; index++) {
      const kind = this.#events.kind(index);
      if (kind === UFFD_EVENT.PAGEFAULT) faults.push(this.#events.faultAddress(index));
      else if (kind === UFFD_EVENT.REMOVE || kind === UFFD_EVENT.UNMAP) {
        memory.remove(this.#events.rangeStart(index), this.#events.rangeEnd(index));
      } else throw new PageError(`The VMM sent an event of unknown kind ${kind}.`);
    }
    return true;
  }

  /** One piece at a time, so that a fault never waits for more than that. */
  #prefetchNext(memory: GuestMemory): void {
    const piece = this.#pieces[0];
    if (piece === undefined) return;
    const result = memory.prefetch(piece.first, piece.count);
    if (result === 'gone') this.end();
    if (result !== 'served') return;
    this.#pieces.shift();
    if (this.#pieces.length === 0 && this.#materialising) this.#finishMaterialisation(memory);
  }

  #planMaterialisation(): void {
    if (!this.#materialising || this.#memory === undefined) return;
    const { blockCount } = this.#memory;
    for (let first = 0; first < blockCount; first += MAX_COPY_BLOCKS) {
      this.#pieces.push({ first, count: Math.min(MAX_COPY_BLOCKS, blockCount - first) });
    }
  }

  #finishMaterialisation(memory: GuestMemory): void {
    memory.unregister();
    this.#emit({ kind: 'materialised', vm: this.id });
    this.end();
  }

  /** The guest must not wait for a page that never comes. */
  #fail(reason: string): void {
    if (this.#pidfd !== undefined) killPidfd(this.#pidfd);
    this.#release();
    this.#emit({ kind: 'failed', vm: this.id, reason });
  }

  #release(): void {
    this.#ended = true;
    this.#descriptorChanges++;
    for (const fd of [this.#listener, this.#connection, this.#pidfd, this.#uffd]) {
      if (fd !== undefined) closeFd(fd);
    }
    this.#listener = undefined;
    this.#connection = undefined;
    this.#pidfd = undefined;
    this.#uffd = undefined;
    for (const diff of this.#diffs.splice(0)) diff[Symbol.dispose]();
    this.#pieces = [];
    this.#deferred = [];
    rmSync(this.#request.socketPath, { force: true });
  }

  #has(ready: Readiness, fd: number | undefined): boolean {
    return fd !== undefined && ready.isReady(fd);
  }
}

/** What the pager has done for a VM; nothing, for one whose memory it does not have (yet, or any more). */
export function describeMemory(vm: string, requestId: number, memory?: GuestMemory): LoopEvent {
  const statistics = (memory?.counters ?? new FaultCounters()).snapshot();
  const workingSet = memory?.workingSet() ?? new Uint32Array();
  return { kind: 'described', vm, requestId, statistics, workingSet };
}

/** The recorded windows in the order of their addresses, joined to pieces of at most 1 MiB. */
export function planPrefetch(workingSet: Uint32Array): Piece[] {
  const windows: Piece[] = [];
  for (let at = 0; at + 1 < workingSet.length; at += 2) {
    windows.push({ first: workingSet[at] as number, count: workingSet[at + 1] as number });
  }
  windows.sort((a, b) => a.first - b.first);
  const pieces: Piece[] = [];
  for (const window of windows) {
    const last = pieces.at(-1);
    const joined = last === undefined ? 0 : window.first + window.count - last.first;
    if (
      last !== undefined &&
      window.first <= last.first + last.count &&
      joined <= MAX_COPY_BLOCKS
    ) {
      pieces[pieces.length - 1] = { first: last.first, count: Math.max(last.count, joined) };
    } else pieces.push(window);
  }
  return pieces;
}

function describeFailure(error: unknown): string {
  if (error instanceof HandshakeError) return error.message;
  const what = error instanceof Error ? error.message : String(error);
  return `A page of the guest could not be served: ${what}`;
}
