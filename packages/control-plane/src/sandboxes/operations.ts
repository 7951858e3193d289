import type { hostAgent } from '@torpor/protocol';

/**
 * The lifecycle operations that this process is carrying out, one at a time per
 * sandbox. While one is under way the row belongs to it: the reconciler defers what
 * the agent reports until the operation has written its own result.
 */
export class Operations {
  readonly #running = new Map<string, Promise<unknown>>();
  readonly #deferred = new Map<string, hostAgent.SandboxInfo>();
  #onReleased: (info: hostAgent.SandboxInfo) => void = () => undefined;

  /** Called with the agent's last word on a sandbox when its operation is over. */
  onReleased(listener: (info: hostAgent.SandboxInfo) => void): void {
    this.#onReleased = listener;
  }

  isRunning(id: string): boolean {
    return this.#running.has(id);
  }

  defer(info: hostAgent.SandboxInfo): void {
    this.#deferred.set(info.sandboxId, info);
  }

  /** Runs `operation` after those of the same sandbox that came before. */
  run<T>(id: string, operation: () => Promise<T>): Promise<T> {
    const before = this.#running.get(id) ?? Promise.resolve();
    const result = before.then(operation, operation);
    const settled = result.then(
      () => undefined,
      () => undefined,
    );
    this.#running.set(id, settled);
    void settled.then(() => {
      if (this.#running.get(id) !== settled) return;
      this.#running.delete(id);
      const info = this.#deferred.get(id);
      this.#deferred.delete(id);
      if (info !== undefined) this.#onReleased(info);
    });
    return result;
  }

  /** Resolves when nothing is under way. */
  async settled(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running.values());
  }
}
