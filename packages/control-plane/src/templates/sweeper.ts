import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import type { TemplateRow } from '../database/schema.ts';
import { agentCall, type Host } from '../hosts/host.ts';
import { presentInfo } from '../sandboxes/host-state.ts';
import type { TemplateRepository } from './repository.ts';

const DELETE_TIMEOUT_MS = 60_000;
const DEFAULT_INTERVAL_MS = 30_000;

interface Parts {
  readonly host: Host;
  readonly templates: TemplateRepository;
  readonly logger: Logger;
}

/** Has the host let go of a template that nobody can name any more, and forgets it. What fails is tried again by the sweeper. */
export async function letGo({ host, templates, logger }: Parts, row: TemplateRow): Promise<void> {
  try {
    await agentCall(() =>
      host.client.deleteSnapshot(
        { teamId: row.team_id, templateId: row.id },
        { timeoutMs: DELETE_TIMEOUT_MS },
      ),
    );
  } catch (reason) {
    const error = TorporError.from(reason);
    if (error.code !== 'not_found') {
      logger.warn({ template: row.id, err: error }, 'The host has not let go of a template yet');
      return;
    }
  }
  await templates.remove(row.id);
}

/**
 * Finishes what a crash, or a host that did not answer, left of templates: at start
 * those that were being made, and from time to time those that were being removed.
 */
export class TemplateSweeper {
  readonly #parts: Parts;
  readonly #intervalMs: number;
  readonly #stopping = new AbortController();
  #rounds: Promise<void> = Promise.resolve();

  constructor(parts: Parts, intervalMs: number = DEFAULT_INTERVAL_MS) {
    this.#parts = parts;
    this.#intervalMs = intervalMs;
  }

  /** What is pending now, before anything can be asked of this process, nobody will finish. */
  async start(): Promise<void> {
    const { templates, host } = this.#parts;
    const interrupted = (await templates.unsettled(host.id))
      .filter(({ state }) => state === 'pending')
      .map(({ id }) => id);
    this.#rounds = this.#sweepForever(new Set(interrupted));
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#rounds;
  }

  async #sweepForever(interrupted: ReadonlySet<string>): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      try {
        await this.#sweep(interrupted);
      } catch (reason) {
        const error = TorporError.from(reason);
        this.#parts.logger.warn({ err: error }, 'Templates could not be put right yet');
      }
      await delay(this.#intervalMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #sweep(interrupted: ReadonlySet<string>): Promise<void> {
    const { templates, host } = this.#parts;
    for (const row of await templates.unsettled(host.id)) {
      if (this.#stopping.signal.aborted) return;
      if (row.state === 'pending' && !interrupted.has(row.id)) continue;
      if (await this.#mayStillBeMade(row)) continue;
      await templates.markDeleting(row.id);
      await letGo(this.#parts, row);
    }
  }

  /** An agent that outlived the control plane may be in the middle of it, and would set the reference after we had it dropped. */
  async #mayStillBeMade({ state, source_sandbox_id: source }: TemplateRow): Promise<boolean> {
    if (state !== 'pending' || source === null) return false;
    const info = await presentInfo(this.#parts.host, source);
    return info?.status === 'pausing' || info?.status === 'snapshotting';
  }
}
