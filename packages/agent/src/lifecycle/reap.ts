import { traceWork } from '@torpor/protocol';
import type { Logger } from 'pino';
import type { SandboxRegistry } from '../registry/registry.ts';
import type { Sandbox } from '../registry/sandbox.ts';
import { destroyIf } from './destroy.ts';
import { pauseIf } from './pause.ts';

const INTERVAL_MS = 1000;

/** Destroys, or pauses if they have auto-pause, the sandboxes that were not used for their time to live. */
export async function reapIdle(registry: SandboxRegistry): Promise<void> {
  const { logger } = registry.host;
  await Promise.all(
    registry
      .all()
      .filter(isIdle)
      .map(async (sandbox) => {
        try {
          await reap(registry, sandbox);
        } catch (error) {
          if (!registry.isPresent(sandbox)) return;
          logger.error({ sandbox: sandbox.id, err: error }, 'Idle sandbox not reaped');
        }
      }),
  );
}

/** The condition is checked again under the lock: it may have been used or destroyed meanwhile. */
async function reap(registry: SandboxRegistry, sandbox: Sandbox): Promise<void> {
  const { timeoutSec, autoPause } = sandbox.record.spec;
  const attributes = { 'torpor.sandbox.id': sandbox.id };
  await traceWork(registry.host.tracer, 'agent.reap', { attributes }, () =>
    autoPause
      ? pauseIf(registry, sandbox.id, isIdle)
      : destroyIf(registry, sandbox, isIdle, `It was not used for ${timeoutSec} s.`),
  );
}

function isIdle({ record, activity }: Sandbox): boolean {
  const { timeoutSec } = record.spec;
  return record.state === 'running' && timeoutSec > 0 && activity.idleMs() >= timeoutSec * 1000;
}

/** Reaps idle sandboxes, once a second, until it is disposed of. */
export class Reaper implements AsyncDisposable {
  readonly #timer: NodeJS.Timeout;
  #round: Promise<void> | undefined;

  constructor(registry: SandboxRegistry, logger: Logger) {
    this.#timer = setInterval(() => {
      // Rounds do not overlap.
      this.#round ??= reapIdle(registry)
        .catch((error: unknown) => logger.error({ err: error }, 'Idle sandboxes not reaped'))
        .finally(() => {
          this.#round = undefined;
        });
    }, INTERVAL_MS);
    this.#timer.unref();
  }

  /** Waits for the current round. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#round;
  }
}
