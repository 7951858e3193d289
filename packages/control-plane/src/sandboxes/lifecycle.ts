import type { Principal } from '../auth/principal.ts';
import { type CreateRecord, type Made, UNRECORDED } from '../idempotency/keys.ts';
import { findOwn } from './access.ts';
import { type Fork, type ForkRequest, fork, forked } from './fork.ts';
import type { OperatedSandbox, SandboxParts } from './parts.ts';
import { pauseOperation, resumeOperation } from './pause.ts';

export interface ResumeRequest {
  /** A new idle timeout; unchanged if omitted. */
  readonly timeoutSec?: number | undefined;
}

/**
 * Pauses, resumes and forks sandboxes. Concurrent operations on one sandbox run one after
 * the other.
 */
export class SandboxLifecycle {
  readonly #parts: SandboxParts;

  constructor(parts: SandboxParts) {
    this.#parts = parts;
  }

  /**
   * Frees everything that a running sandbox uses except disk space. Throws `not_found`,
   * `invalid_state` if it is not running, or the agent's error; it keeps running then.
   */
  async pause(principal: Principal, id: string): Promise<OperatedSandbox> {
    await findOwn(this.#parts.sandboxes, principal, id);
    return this.#parts.runner.run(pauseOperation(this.#parts, principal, id));
  }

  /**
   * Resumes a paused sandbox, or one in state `error` from its last build. Throws
   * `not_found`, `invalid_state`, `no_hosts_available`, or the agent's error; it is
   * still paused then.
   */
  async resume(
    principal: Principal,
    id: string,
    { timeoutSec }: ResumeRequest,
  ): Promise<OperatedSandbox> {
    await findOwn(this.#parts.sandboxes, principal, id);
    return this.#parts.runner.run(resumeOperation(this.#parts, principal, id, timeoutSec));
  }

  /**
   * Copies of a running or paused sandbox, which does not change. Resolves with a
   * result per copy: one that fails does not affect the others. Throws `not_found` and
   * `invalid_state`; no copy exists then.
   */
  async fork(
    principal: Principal,
    id: string,
    request: ForkRequest,
    record: CreateRecord = UNRECORDED,
  ): Promise<Fork> {
    await findOwn(this.#parts.sandboxes, principal, id);
    return fork(this.#parts, principal, id, request, record);
  }

  /** What came of a fork whose control plane did not tell; undefined if nothing did. */
  forked(principal: Principal, made: Made): Promise<Fork | undefined> {
    return forked(this.#parts, principal, made);
  }
}
