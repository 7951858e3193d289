import { rmSync } from 'node:fs';
import { BLOCK_SIZE } from '@torpor/builds';
import {
  acceptUnix,
  closeFd,
  exitOfPidfd,
  killPidfd,
  listenUnix,
  openPidfd,
  peerCredentials,
  receiveWithFds,
} from '@torpor/linux';
import type { GuestMemory } from './guest-memory.ts';
import { HandshakeError, parseHandshake } from './handshake.ts';
import type { LoopEvent, LoopRequest, Release } from './messages.ts';
import { OpenBuild } from './open-build.ts';
import { PageService } from './page-service.ts';
import { FaultCounters } from './statistics.ts';

type ServeRequest = Extract<LoopRequest, { kind: 'serve' }>;

/** 64 regions of 200 bytes each. */
const MAX_HANDSHAKE_BYTES = 64 * 1024;

/** Which descriptors had events when the loop last waited. */
interface Readiness {
  isReady(fd: number): boolean;
}

/** There are no faults yet; requests that arrive meanwhile are carried out once the VM is served. */
interface Waiting {
  readonly build: OpenBuild;
  readonly deadline: number;
  readonly materialise: boolean;
}

interface Listening extends Waiting {
  readonly name: 'listening';
  readonly listener: number;
}

/** The process at the other end of the connection. */
interface Vmm {
  readonly pid: number;
  readonly pidfd: number;
  /** Kept open until the VM is released, although nothing comes after the handshake. */
  readonly connection: number;
}

interface Handshaking extends Waiting {
  readonly name: 'handshaking';
  readonly vmm: Vmm;
}

interface Serving {
  readonly name: 'serving';
  readonly build: OpenBuild;
  readonly vmm: Vmm;
  readonly service: PageService;
}

/** Without resources. */
interface Released {
  readonly name: 'released';
}

/** Could not be served and was killed: without resources. */
interface Failed {
  readonly name: 'failed';
}

/**
 * The phases of a VM in a fault loop: listening → handshaking → serving → released or failed,
 * with the resources of each. A VM can be released or fail in every phase.
 */
type Phase = Listening | Handshaking | Serving | Released | Failed;

/**
 * One VM within a fault loop: it waits for the VMM to connect, then serves it.
 * Every method returns at once; the loop calls {@link step} when a descriptor has events.
 */
export class ServedVm {
  readonly id: string;
  readonly #request: ServeRequest;
  readonly #emit: (event: LoopEvent) => void;
  #phase: Phase;

  /** Opens the build's files and listens. Throws BuildFormatError or SystemError; then no resource is kept. */
  constructor(request: ServeRequest, emit: (event: LoopEvent) => void) {
    this.id = request.vm;
    this.#request = request;
    this.#emit = emit;
    const deadline = performance.now() + request.connectTimeoutMs;
    using stack = new DisposableStack();
    const build = stack.use(OpenBuild.open(request));
    rmSync(request.socketPath, { force: true });
    const listener = listenUnix(request.socketPath);
    stack.move();
    this.#phase = { name: 'listening', build, deadline, materialise: false, listener };
  }

  /** Descriptors whose input this VM waits for. */
  get descriptors(): readonly number[] {
    return descriptorsOf(this.#phase);
  }

  /** How long the loop may wait for descriptors before it calls {@link step}; undefined: forever. */
  get timeoutMs(): number | undefined {
    const phase = this.#phase;
    if (phase.name === 'serving') return phase.service.timeoutMs;
    return 'deadline' in phase ? Math.max(0, phase.deadline - performance.now()) + 1 : undefined;
  }

  get isOver(): boolean {
    return this.#phase.name === 'released' || this.#phase.name === 'failed';
  }

  /**
   * Does what can be done now. `ready` has the descriptors with events. Returns whether {@link
   * descriptors} have changed. Never throws.
   */
  step(ready: Readiness): 'same-descriptors' | 'descriptors-changed' {
    const before = this.#phase;
    try {
      this.#act(before, ready);
    } catch (error) {
      this.#fail(describeFailure(error));
    }
    return this.#phase === before ? 'same-descriptors' : 'descriptors-changed';
  }

  /** Loads all that is missing; afterwards the VM does not need the pager. */
  materialise(): void {
    const phase = this.#phase;
    if (phase.name === 'serving') phase.service.materialise();
    else if ('materialise' in phase) {
      this.#phase = { ...phase, materialise: true };
    }
  }

  describe(requestId: number): LoopEvent {
    const memory = this.#phase.name === 'serving' ? this.#phase.service.memory : undefined;
    return describeMemory(this.id, requestId, memory);
  }

  /** Releases the VM; nothing is served any more. Idempotent. */
  end(release: Release): void {
    if (this.isOver) return;
    this.#enter({ name: 'released' });
    this.#emit({ kind: 'released', vm: this.id, release });
  }

  /** A step returns once it enters another phase: `ready` is about the old descriptors. */
  #act(phase: Phase, ready: Readiness): void {
    switch (phase.name) {
      case 'serving':
        if (ready.isReady(phase.vmm.pidfd)) this.end(exitOf(phase.vmm));
        else this.#serve(phase.service, ready.isReady(phase.service.uffd));
        return;
      case 'listening':
        if (ready.isReady(phase.listener)) this.#accept(phase);
        else this.#checkDeadline(phase, 'No VMM connected in time.');
        return;
      case 'handshaking':
        if (ready.isReady(phase.vmm.connection)) this.#handshake(phase);
        else if (ready.isReady(phase.vmm.pidfd)) this.end(exitOf(phase.vmm));
        else this.#checkDeadline(phase, 'The VMM connected, but sent no userfaultfd in time.');
    }
  }

  #checkDeadline({ deadline }: Waiting, reason: string): void {
    if (performance.now() > deadline) this.#fail(reason);
  }

  #accept({ listener, build, deadline, materialise }: Listening): void {
    const connection = acceptUnix(listener);
    if (connection === undefined) return;
    using stack = new DisposableStack();
    stack.defer(() => closeFd(connection));
    const { pid } = peerCredentials(connection);
    const pidfd = openPidfd(pid);
    stack.move();
    const vmm = { pid, pidfd, connection };
    this.#phase = { name: 'handshaking', build, deadline, materialise, vmm };
    closeFd(listener);
    rmSync(this.#request.socketPath, { force: true });
  }

  #handshake({ build, materialise, vmm }: Handshaking): void {
    const message = receiveWithFds(vmm.connection, MAX_HANDSHAKE_BYTES);
    if (message === undefined) return;
    const [uffd, ...others] = message.fds;
    for (const fd of others) closeFd(fd);
    if (uffd === undefined) throw new HandshakeError('The VMM sent no userfaultfd.');
    using stack = new DisposableStack();
    stack.defer(() => closeFd(uffd));
    const { mapping, diffs } = build;
    const regions = parseHandshake(message.bytes, mapping.blockCount * BLOCK_SIZE);
    const service = new PageService({ uffd, regions, mapping, diffs });
    const { workingSet } = this.#request;
    if (workingSet !== undefined) service.prefetch(workingSet);
    if (materialise) service.materialise();
    stack.move();
    this.#phase = { name: 'serving', build, vmm, service };
    this.#emit({ kind: 'connected', vm: this.id, pid: vmm.pid });
  }

  #serve(service: PageService, hasEvents: boolean): void {
    const result = service.step(hasEvents);
    if (result === 'serving') return;
    if (result === 'materialised') this.#emit({ kind: 'materialised', vm: this.id });
    this.end({ cause: result });
  }

  /** The guest must not wait for a page that never comes. */
  #fail(reason: string): void {
    const phase = this.#phase;
    if (phase.name === 'handshaking' || phase.name === 'serving') killPidfd(phase.vmm.pidfd);
    this.#enter({ name: 'failed' });
    this.#emit({ kind: 'failed', vm: this.id, reason });
  }

  #enter(over: Released | Failed): void {
    const phase = this.#phase;
    this.#phase = over;
    switch (phase.name) {
      case 'listening':
        closeFd(phase.listener);
        break;
      case 'serving':
        phase.service[Symbol.dispose]();
        closeVmm(phase.vmm);
        break;
      case 'handshaking':
        closeVmm(phase.vmm);
        break;
      case 'released':
      case 'failed':
        return;
    }
    phase.build[Symbol.dispose]();
    rmSync(this.#request.socketPath, { force: true });
  }
}

function descriptorsOf(phase: Phase): readonly number[] {
  switch (phase.name) {
    case 'listening':
      return [phase.listener];
    case 'handshaking':
      return [phase.vmm.connection, phase.vmm.pidfd];
    case 'serving':
      return [phase.vmm.pidfd, phase.service.uffd];
    case 'released':
    case 'failed':
      return [];
  }
}

function closeVmm({ pidfd, connection }: Vmm): void {
  closeFd(connection);
  closeFd(pidfd);
}

/** How it exited is only logged, so a kernel that does not report it is fine. */
function exitOf({ pidfd }: Vmm): Release {
  const cause = 'vmm-exited';
  try {
    const exit = exitOfPidfd(pidfd);
    return exit === undefined || exit === 'pending' ? { cause } : { cause, exit };
  } catch {
    return { cause };
  }
}

/** The pager's statistics for a VM; empty if it does not have the VM's memory (yet, or any more). */
export function describeMemory(vm: string, requestId: number, memory?: GuestMemory): LoopEvent {
  const statistics = (memory?.counters ?? new FaultCounters()).snapshot();
  const workingSet = memory?.workingSet() ?? new Uint32Array();
  return { kind: 'described', vm, requestId, statistics, workingSet };
}

function describeFailure(error: unknown): string {
  if (error instanceof HandshakeError) return error.message;
  const what = error instanceof Error ? error.message : String(error);
  return `A page of the guest could not be served: ${what}`;
}
