import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import type { TemplateRow } from '../database/schema.ts';
import { SYSTEM } from '../events/outbox.ts';
import { nameResource, releaseTemplate, type TemplateParts } from './parts.ts';

const DEFAULT_INTERVAL_MS = 30_000;

/**
 * Periodically cleans up templates after a crash, or after a host did not respond: those that
 * are pending although no operation has locked their name, and those that are deleted but
 * still kept by the host.
 */
export class TemplateSweeper implements AsyncDisposable {
  readonly #parts: TemplateParts;
  readonly #intervalMs: number;
  readonly #stopping = new AbortController();
  readonly #rounds: Promise<void>;

  constructor(parts: TemplateParts, intervalMs: number = DEFAULT_INTERVAL_MS) {
    this.#parts = parts;
    this.#intervalMs = intervalMs;
    this.#rounds = this.#sweepForever();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#rounds;
  }

  async #sweepForever(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      await this.#attempt(() => this.#sweep());
      await delay(this.#intervalMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #sweep(): Promise<void> {
    const { templates, hosts } = this.#parts;
    for (const host of hosts.all()) {
      for (const row of await templates.unsettled(host.id)) {
        if (this.#stopping.signal.aborted) return;
        await this.#attempt(() => this.#settle(row));
      }
    }
  }

  async #settle(row: TemplateRow): Promise<void> {
    if (row.state === 'deleting') return releaseTemplate(this.#parts, row);
    await this.#parts.runner.recover(nameResource(row.team_id, row.name), {
      kind: 'snapshot.create',
      teamId: row.team_id,
      actor: SYSTEM,
    });
  }

  async #attempt(step: () => Promise<void>): Promise<void> {
    try {
      await step();
    } catch (reason) {
      const err = TorporError.from(reason);
      this.#parts.logger.warn({ err }, 'Could not settle a template; will retry');
    }
  }
}
