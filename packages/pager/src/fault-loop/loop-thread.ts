import { Worker } from 'node:worker_threads';
import { notifyFd } from '@torpor/linux';
import type { LoopEvent, LoopRequest } from './messages.ts';

/** The control thread's side of a worker that runs `fault-loop.ts`. */
export class LoopThread {
  readonly #worker: Worker;
  readonly #wakeUpFd: number;
  readonly #exited: Promise<void>;
  #quitting = false;

  private constructor(worker: Worker, wakeUpFd: number, onExit: () => void) {
    this.#worker = worker;
    this.#wakeUpFd = wakeUpFd;
    this.#exited = new Promise((resolve) => {
      worker.once('exit', () => {
        if (!this.#quitting) onExit();
        resolve();
      });
    });
  }

  /** `onExit` is called if the thread exits by itself: then its VMs are not served. */
  static async start(
    onEvent: (event: LoopEvent) => void,
    onExit: (reason: string) => void,
  ): Promise<LoopThread> {
    const worker = new Worker(new URL('./fault-loop.ts', import.meta.url), {
      workerData: { torporFaultLoop: true },
      // Faults allocate next to nothing, so the garbage of loading would otherwise never be
      // collected.
      resourceLimits: { maxYoungGenerationSizeMb: 2 },
    });
    let reason = 'the thread exited';
    worker.on('error', (error) => {
      reason = error instanceof Error ? error.message : String(error);
    });
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    worker.once('error', reject);
    worker.once('message', (message: { wakeUpFd: number }) => {
      worker.off('error', reject);
      worker.on('message', onEvent);
      resolve(message.wakeUpFd);
    });
    return new LoopThread(worker, await promise, () => onExit(reason));
  }

  /**
   * Stops the thread. A process that exits waits for its threads, and only a request stops one
   * that blocks in ppoll(2).
   */
  async quit(): Promise<void> {
    this.#quitting = true;
    this.request({ kind: 'quit' });
    await this.#exited;
  }

  request(request: LoopRequest): void {
    this.#worker.postMessage(request);
    notifyFd(this.#wakeUpFd);
  }
}
