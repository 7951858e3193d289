import { TorporError } from '@torpor/protocol';
import { type Kysely, sql, type Transaction } from 'kysely';
import { SYSTEM } from '../auth/principal.ts';
import type { Database, EventKind, HostRow } from '../database/schema.ts';
import { appendEvents, type OutboxEvent } from '../events/outbox.ts';
import type { HostImage, HostReport } from './description.ts';
import { sha256 } from './digest.ts';

/** What a heartbeat reports. */
export interface Heartbeat extends HostReport {
  /** Where its agent can be reached; undefined if only the process of the host itself can. */
  readonly address?: string | undefined;
  /** Which machine it is; not compared with that of the last heartbeat if undefined. */
  readonly machine?: string | undefined;
}

/** What a heartbeat has changed. */
export interface HeartbeatEffect {
  /** The host was not online before. */
  readonly isUp: boolean;
  /** It has another address. */
  readonly isMoved: boolean;
}

/** The rows of the table `hosts`. */
export class HostRepository {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  find(id: string): Promise<HostRow | undefined> {
    return this.#db.selectFrom('hosts').selectAll().where('id', '=', id).executeTakeFirst();
  }

  /** Oldest first. */
  list(): Promise<HostRow[]> {
    return this.#db.selectFrom('hosts').selectAll().orderBy('created_at').orderBy('id').execute();
  }

  /**
   * Records that a host is up, and what is known of it. Returns undefined if it does not exist.
   * Throws `conflict` while another machine reports as the same host, and as
   * {@link assertNotReplaced} for a certificate of that time.
   */
  async heartbeat(
    id: string,
    heartbeat: Heartbeat,
    issuedAt = new Date(),
  ): Promise<HeartbeatEffect | undefined> {
    if (await this.#recordUnchanged(id, heartbeat, issuedAt))
      return { isUp: false, isMoved: false };
    return this.#recordChanged(id, heartbeat, issuedAt);
  }

  /**
   * The usual heartbeat: of a host that is online, at the same address, with the same images. One
   * statement that does not wait for the disk, because every host sends one every few seconds; if
   * the server crashes right after it, the next one makes up for it. Returns whether it was written.
   */
  async #recordUnchanged(
    id: string,
    { address, facts, images, machine }: Heartbeat,
    issuedAt: Date,
  ): Promise<boolean> {
    let update = this.#db
      .with('relaxed', (db) =>
        db.selectNoFrom(sql`set_config('synchronous_commit', 'off', true)`.as('setting')),
      )
      .updateTable('hosts')
      .from('relaxed')
      .set({ ...facts, last_heartbeat_at: sql<Date>`now()` })
      .where('id', '=', id)
      .where('state', '=', 'online')
      .where(({ eb, or }) => or([eb('joined_at', 'is', null), eb('joined_at', '<=', issuedAt)]));
    if (machine !== undefined) update = update.where('machine', '=', machine);
    if (address !== undefined) update = update.where('address', 'is not distinct from', address);
    if (images !== undefined) update = update.where('images_digest', '=', digestOf(images));
    return (await update.returning('id').executeTakeFirst()) !== undefined;
  }

  #recordChanged(
    id: string,
    { address, facts, images, machine }: Heartbeat,
    issuedAt: Date,
  ): Promise<HeartbeatEffect | undefined> {
    return this.#db.transaction().execute(async (transaction) => {
      const before = await transaction
        .selectFrom('hosts')
        .selectAll()
        .where('id', '=', id)
        // Not as a deletion does, which placement waits for.
        .forNoKeyUpdate()
        .executeTakeFirst();
      if (before === undefined) return undefined;
      assertNotReplaced(before, issuedAt);
      if (isOtherMachine(before, machine)) throw otherMachine(before);
      await transaction
        .updateTable('hosts')
        .set({ ...facts, address, machine, state: 'online', last_heartbeat_at: sql<Date>`now()` })
        .where('id', '=', id)
        .execute();
      if (images !== undefined) await recordImages(transaction, id, images);
      const isUp = before.state !== 'online';
      if (isUp) await appendEvents(transaction, [hostEvent('host.up', before)]);
      return { isUp, isMoved: address !== undefined && address !== before.address };
    });
  }

  /** Records what is known of a host, not that it is up. Does nothing if it does not exist. */
  record(id: string, { facts, images }: HostReport): Promise<void> {
    return this.#db.transaction().execute(async (transaction) => {
      const row = await transaction
        .updateTable('hosts')
        .set(facts)
        .where('id', '=', id)
        .returning('id')
        .executeTakeFirst();
      if (row !== undefined && images !== undefined) await recordImages(transaction, id, images);
    });
  }

  /** Marks the hosts that have sent no heartbeat for `silenceMs`, and returns them. */
  markSilent(silenceMs: number): Promise<HostRow[]> {
    return this.#db.transaction().execute(async (transaction) => {
      const silent = await transaction
        .updateTable('hosts')
        .set({ state: 'unreachable' })
        .where('state', '=', 'online')
        .where('last_heartbeat_at', '<', sql<Date>`now() - ${silenceMs} * interval '1 ms'`)
        .returningAll()
        .execute();
      await appendEvents(
        transaction,
        silent.map((row) => hostEvent('host.down', row)),
      );
      return silent;
    });
  }
}

/** Within a transaction that has locked the row of the host. */
async function recordImages(
  transaction: Transaction<Database>,
  hostId: string,
  images: readonly HostImage[],
): Promise<void> {
  const changed = await transaction
    .updateTable('hosts')
    .set({ images_digest: digestOf(images) })
    .where('id', '=', hostId)
    .where('images_digest', 'is distinct from', digestOf(images))
    .returning('id')
    .executeTakeFirst();
  if (changed === undefined) return;
  await transaction.deleteFrom('host_images').where('host_id', '=', hostId).execute();
  if (images.length === 0) return;
  await transaction
    .insertInto('host_images')
    .values(
      images.map(({ name, sizeBytes, createdAt }) => ({
        host_id: hostId,
        name,
        size_bytes: sizeBytes,
        created_at: createdAt,
      })),
    )
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

/** Tells whether images have changed, in whatever order they are reported. */
function digestOf(images: readonly HostImage[]): string {
  const lines = images.map(({ name, sizeBytes, createdAt }) =>
    JSON.stringify([name, sizeBytes, createdAt.getTime()]),
  );
  return sha256(lines.sort().join());
}

/** Throws `unauthorized` for a certificate from before a machine has joined again as the host. */
export function assertNotReplaced({ id, joined_at }: HostRow, issuedAt: Date): void {
  if (joined_at === null || joined_at <= issuedAt) return;
  throw new TorporError('unauthorized', `A machine has joined again as the host ${id}.`, {
    remedy: 'Earlier certificates are no longer valid: join this machine with a new token.',
  });
}

/**
 * Whether the report is from a copy of a data directory. The machine that was heard first stays
 * the host until it is silent: it has the sandboxes.
 */
function isOtherMachine(before: HostRow, machine: string | undefined): boolean {
  const isKnown = machine !== undefined && before.machine !== null;
  return isKnown && before.state === 'online' && before.machine !== machine;
}

function otherMachine({ id, name, address }: HostRow): TorporError {
  return new TorporError(
    'conflict',
    `Another machine reports as the host ${id} (${name}), at ${address}.`,
    {
      remedy:
        'A copy of a data directory has the identity of the original. Join this machine as another host, with an empty data directory; or stop the other machine: this one takes its place half a minute later.',
    },
  );
}

/** An event of a host; by default one that happened by itself. */
export function hostEvent(
  kind: EventKind,
  row: HostRow,
  details: Partial<Pick<OutboxEvent, 'actor' | 'metadata'>> = {},
): OutboxEvent {
  const { actor = SYSTEM, metadata = {} } = details;
  return {
    kind,
    resource: row.id,
    teamId: row.team_id ?? row.audit_team_id,
    actor,
    status: 'success',
    metadata: { name: row.name, ...metadata },
  };
}
