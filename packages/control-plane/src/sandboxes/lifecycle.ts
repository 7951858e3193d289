import type { rest } from '@torpor/protocol';
import type { Principal } from '../auth/api-keys.ts';
import { publicMessage } from '../errors/public-error.ts';
import { findOwn } from './access.ts';
import { fork } from './fork.ts';
import type { OperatedSandbox, SandboxParts } from './parts.ts';
import { pauseOperation, resumeOperation } from './pause.ts';
import { presentSandbox } from './present.ts';

/**
 * Pauses, resumes and forks sandboxes. Of operations on one sandbox that are asked for at
 * once, each sees what the one before has left.
 */
export class SandboxLifecycle {
  readonly #parts: SandboxParts;

  constructor(parts: SandboxParts) {
    this.#parts = parts;
  }

  /**
   * Frees everything that a running sandbox uses but disk space. Throws `not_found`,
   * `invalid_state` for one that does not run, or what the agent says; it keeps running then.
   */
  async pause(principal: Principal, id: string): Promise<rest.Sandbox> {
    await findOwn(this.#parts.sandboxes, principal, id);
    return present(await this.#parts.runner.run(pauseOperation(this.#parts, principal, id)));
  }

  /**
   * Lets a paused sandbox run on, or one in state `error` from its last build. Throws
   * `not_found`, `invalid_state`, `no_hosts_available`, or what the agent says; it is
   * paused as before then.
   */
  async resume(
    principal: Principal,
    id: string,
    { timeout_sec: timeoutSec }: rest.ResumeSandbox,
  ): Promise<rest.Sandbox> {
    await findOwn(this.#parts.sandboxes, principal, id);
    const operation = resumeOperation(this.#parts, principal, id, timeoutSec);
    return present(await this.#parts.runner.run(operation));
  }

  /**
   * Copies of a running or paused sandbox, which goes on as it was. Resolves with a
   * result per copy: one that fails does not keep the others from being made. Throws
   * `not_found` and `invalid_state`; nothing has been made then.
   */
  async fork(
    principal: Principal,
    id: string,
    { count, timeout_sec: timeoutSec }: rest.ForkSandbox,
  ): Promise<rest.ForkResult> {
    await findOwn(this.#parts.sandboxes, principal, id);
    const { children, timings } = await fork(this.#parts, principal, id, { count, timeoutSec });
    return {
      children: children.map(({ row, error }) =>
        row === undefined
          ? { error: { code: error.code, message: publicMessage(error) } }
          : { sandbox: presentSandbox(row) },
      ),
      timings: [...timings],
    };
  }
}

function present({ row, timings }: OperatedSandbox): rest.Sandbox {
  return presentSandbox(row, timings);
}
