import { TorporError } from '@torpor/protocol';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { Database } from '../database/schema.ts';
import type { HostConnection } from './connection.ts';
import { type HostImage, reportOfDescription } from './description.ts';
import type { HostRegistry } from './registry.ts';
import { HostRepository } from './repository.ts';

interface Parts {
  readonly db: Kysely<Database>;
  readonly hosts: HostRegistry;
  readonly logger: Logger;
}

/** Between rounds in which hosts are asked, for each of them: unknown names must not keep a fleet busy. */
const PAUSE_PER_HOST_MS = 10;

/**
 * What the hosts have, by the rows that their heartbeats write. Images are added to hosts at any
 * time: before a name is taken for unknown, the hosts are asked.
 */
export class HostInventory {
  readonly #parts: Parts;
  #round: Promise<void> | undefined;
  #nextRoundAt = 0;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** The images that sandboxes of the team can boot, by name. */
  async images(teamId: string): Promise<readonly HostImage[]> {
    const { db, hosts } = this.#parts;
    // Who has just added one on this machine expects it in the list.
    if (hosts.local !== undefined) await this.#ask(hosts.local);
    const rows = await db
      .selectFrom('host_images')
      .innerJoin('hosts', 'hosts.id', 'host_images.host_id')
      .distinctOn('host_images.name')
      .select(['host_images.name', 'size_bytes', 'host_images.created_at'])
      .where(({ eb, or }) => or([eb('team_id', 'is', null), eb('team_id', '=', teamId)]))
      .orderBy('host_images.name')
      .orderBy('hosts.created_at')
      .execute();
    return rows
      .map((row) => ({
        name: row.name,
        sizeBytes: Number(row.size_bytes),
        createdAt: row.created_at,
      }))
      .sort((a, b) => a.name.localeCompare(b.name));
  }

  /** What `attempt` returns; if it throws `not_found`, that of another attempt with what the hosts have now. */
  async withCurrent<T>(attempt: () => Promise<T>): Promise<T> {
    try {
      return await attempt();
    } catch (reason) {
      if (TorporError.from(reason).code !== 'not_found') throw reason;
      await this.#askAll();
      return attempt();
    }
  }

  /** Those who ask at the same time share a round. */
  #askAll(): Promise<void> {
    const hosts = this.#parts.hosts.all();
    if (this.#round === undefined && Date.now() < this.#nextRoundAt) return Promise.resolve();
    this.#round ??= Promise.all(hosts.map((host) => this.#ask(host))).then(() => {
      this.#round = undefined;
      this.#nextRoundAt = Date.now() + hosts.length * PAUSE_PER_HOST_MS;
    });
    return this.#round;
  }

  async #ask(host: HostConnection): Promise<void> {
    try {
      const report = reportOfDescription(await host.describe());
      await new HostRepository(this.#parts.db).record(host.id, report);
    } catch (reason) {
      const err = TorporError.from(reason);
      this.#parts.logger.debug({ host: host.id, err }, 'Could not ask a host what it has');
    }
  }
}
