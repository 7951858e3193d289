import { newId, TorporError } from '@torpor/protocol';
import type { Kysely, Selectable, Transaction } from 'kysely';
import type { Principal } from '../auth/principal.ts';
import type { SecretBox } from '../auth/secret-box.ts';
import { isDuplicate } from '../database/duplicate.ts';
import type { Page } from '../database/page.ts';
import type {
  Database,
  DeliveryState,
  EventKind,
  WebhookDeliveryTable,
  WebhookFormat,
  WebhookTable,
} from '../database/schema.ts';
import { appendEvents, type OutboxEvent } from '../events/outbox.ts';
import { requireReadable } from '../events/scope.ts';
import { type CreateRecord, UNRECORDED } from '../idempotency/keys.ts';
import { lockPermission } from '../teams/membership.ts';
import type { Quotas } from '../teams/quotas.ts';
import { newWebhookSecret } from './message.ts';
import { type Attempt, SECRET_PURPOSE, type WebhookSender } from './sender.ts';
import { type AllowedNetworks, parseTarget } from './target.ts';

/** Without its address and secret. */
export type Webhook = Omit<
  Selectable<WebhookTable>,
  'url' | 'secret' | 'previous_secret' | 'previous_secret_until'
> & {
  /** The host name of its address; the rest may have a token in it. */
  readonly host: string;
};

export type Delivery = Omit<Selectable<WebhookDeliveryTable>, 'webhook_id' | 'resource'>;

export interface WebhookRequest {
  readonly name: string;
  readonly url: string;
  readonly format: WebhookFormat;
  readonly eventTypes: readonly string[];
}

/** What is undefined stays as it is. */
export type WebhookChanges = {
  readonly [K in keyof WebhookRequest]?: WebhookRequest[K] | undefined;
} & { readonly enabled?: boolean | undefined };

/** Of what can be changed, as the audit log names them. */
const COLUMNS = {
  name: 'name',
  url: 'url',
  format: 'format',
  eventTypes: 'event_types',
  enabled: 'enabled',
} as const satisfies Record<keyof WebhookChanges, keyof WebhookTable>;

/** How long a receiver may take to learn of a new secret. */
const PREVIOUS_SECRET_MS = 24 * 3_600_000;

interface Parts {
  readonly db: Kysely<Database>;
  readonly quotas: Quotas;
  readonly secrets: SecretBox;
  readonly sender: WebhookSender;
  readonly allowedNetworks: AllowedNetworks;
  /** Called after a transaction with events. */
  readonly onEvents: () => void;
}

/** The webhooks of teams. */
export class WebhookService {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Returns the secret too: the only time that it can be seen. Throws `invalid_request`, `already_exists`, `quota_exceeded`. */
  async create(principal: Principal, request: WebhookRequest, record: CreateRecord = UNRECORDED) {
    const { secrets, quotas } = this.#parts;
    const secret = newWebhookSecret();
    const url = this.#target(request.url);
    const webhook = await this.#write(principal, 'webhook.create', async (transaction) => {
      await quotas.require(transaction, principal.teamId, { webhooks: 1 });
      const row = await transaction
        .insertInto('webhooks')
        .values({
          id: newId('webhook'),
          team_id: principal.teamId,
          name: request.name,
          format: request.format,
          url: secrets.seal(SECRET_PURPOSE, url.href),
          secret: secrets.seal(SECRET_PURPOSE, secret),
          event_types: [...request.eventTypes],
          user_id: principal.onBehalfOf ?? null,
        })
        .returningAll()
        .executeTakeFirstOrThrow();
      await record.record(transaction, { ids: [row.id], secret });
      return row;
    });
    return { webhook, secret };
  }

  /** By name. */
  async list({ teamId }: Principal, { after, limit }: Page<string>): Promise<Webhook[]> {
    const rows = await this.#parts.db
      .selectFrom('webhooks')
      .selectAll()
      .where('team_id', '=', teamId)
      .$if(after !== undefined, (query) => query.where('name', '>', after ?? ''))
      .orderBy('name')
      .$if(limit !== undefined, (query) => query.limit(limit ?? 0))
      .execute();
    return rows.map((row) => this.#shown(row));
  }

  /** Throws `not_found`. */
  async get(principal: Principal, id: string): Promise<Webhook> {
    return this.#shown(await this.#find(principal, id));
  }

  /** Throws `not_found`, `invalid_request`, `already_exists`. */
  async update(principal: Principal, id: string, changes: WebhookChanges): Promise<Webhook> {
    const { name, url, format, eventTypes, enabled } = changes;
    const { secrets } = this.#parts;
    const sealed =
      url === undefined ? undefined : secrets.seal(SECRET_PURPOSE, this.#target(url).href);
    const changed = Object.entries(changes).flatMap(([field, value]) =>
      value === undefined ? [] : [COLUMNS[field as keyof WebhookChanges]],
    );
    const metadata = { changed: changed.toSorted().join(' ') };
    const write = (transaction: Transaction<Database>) =>
      transaction
        .updateTable('webhooks')
        .set({
          name,
          format,
          url: sealed,
          event_types: eventTypes === undefined ? undefined : [...eventTypes],
          enabled,
          user_id: principal.onBehalfOf ?? null,
          updated_at: new Date(),
        })
        .where('id', '=', id)
        .where('team_id', '=', principal.teamId)
        .returningAll()
        .executeTakeFirstOrThrow(() => notFound(id));
    return this.#write(principal, 'webhook.update', write, metadata);
  }

  /**
   * Replaces the secret, and returns the new one: the only time that it can be seen. For a day
   * messages are signed with the previous one too. Throws `not_found`.
   */
  async rotateSecret(principal: Principal, id: string) {
    const { secrets } = this.#parts;
    const secret = newWebhookSecret();
    const write = (transaction: Transaction<Database>) =>
      transaction
        .updateTable('webhooks')
        .set(({ ref }) => ({
          secret: secrets.seal(SECRET_PURPOSE, secret),
          previous_secret: ref('secret'),
          previous_secret_until: new Date(Date.now() + PREVIOUS_SECRET_MS),
          updated_at: new Date(),
        }))
        .where('id', '=', id)
        .where('team_id', '=', principal.teamId)
        .returningAll()
        .executeTakeFirstOrThrow(() => notFound(id));
    const metadata = { changed: 'secret' };
    return { webhook: await this.#write(principal, 'webhook.update', write, metadata), secret };
  }

  /** What is queued for it is not sent. Throws `not_found`. */
  async delete(principal: Principal, id: string): Promise<void> {
    await this.#write(principal, 'webhook.delete', (transaction) =>
      transaction
        .deleteFrom('webhooks')
        .where('id', '=', id)
        .where('team_id', '=', principal.teamId)
        .returningAll()
        .executeTakeFirstOrThrow(() => notFound(id)),
    );
  }

  /** Sends an event `webhook.test` at once. Throws `not_found`. */
  async test(principal: Principal, id: string): Promise<Attempt> {
    const { id: webhookId } = await this.#find(principal, id);
    const { type, id: actorId, name } = principal.actor;
    return this.#parts.sender.send(webhookId, {
      id: `test-${Date.now()}`,
      type: 'webhook.test',
      status: 'success',
      team_id: principal.teamId,
      resource: { type: 'webhook', id: webhookId },
      actor: {
        type,
        ...(actorId === null ? {} : { id: actorId }),
        ...(name === null ? {} : { name }),
      },
      metadata: {},
      created_at: new Date().toISOString(),
    });
  }

  /** What was and is to be sent to it, newest first. Throws `not_found`. */
  async deliveries(
    principal: Principal,
    id: string,
    state: DeliveryState | undefined,
    { after, limit }: Page<string>,
  ): Promise<Delivery[]> {
    const { id: webhookId } = await this.#find(principal, id);
    let query = this.#parts.db
      .selectFrom('webhook_deliveries')
      .selectAll()
      .where('webhook_id', '=', webhookId);
    if (state !== undefined) query = query.where('state', '=', state);
    if (after !== undefined) query = query.where('id', '<', after);
    if (limit !== undefined) query = query.limit(limit);
    return query.orderBy('id', 'desc').execute();
  }

  /** Queues again what was given up. Returns how many. Throws `not_found`. */
  async redeliver(principal: Principal, id: string): Promise<number> {
    const { id: webhookId, name } = await this.#find(principal, id);
    const { db, onEvents } = this.#parts;
    const queued = await db.transaction().execute(async (transaction) => {
      const { numUpdatedRows } = await transaction
        .updateTable('webhook_deliveries')
        .set({ state: 'pending', attempts: 0, next_attempt_at: new Date(), finished_at: null })
        .where('webhook_id', '=', webhookId)
        .where('state', '=', 'dead')
        .executeTakeFirstOrThrow();
      const metadata = { name, deliveries: String(numUpdatedRows) };
      await appendEvents(transaction, [
        webhookEvent(principal, 'webhook.redeliver', webhookId, metadata),
      ]);
      return Number(numUpdatedRows);
    });
    onEvents();
    return queued;
  }

  async #find({ teamId }: Principal, id: string): Promise<Selectable<WebhookTable>> {
    const row = await this.#parts.db
      .selectFrom('webhooks')
      .selectAll()
      .where('id', '=', id)
      .where('team_id', '=', teamId)
      .executeTakeFirst();
    if (row === undefined) throw notFound(id);
    return row;
  }

  /** Writes, with the event of it. Throws `already_exists` for a name that another one has. */
  async #write(
    principal: Principal,
    kind: EventKind,
    write: (transaction: Transaction<Database>) => Promise<Selectable<WebhookTable>>,
    metadata: Readonly<Record<string, string>> = {},
  ): Promise<Webhook> {
    const { db, onEvents } = this.#parts;
    const row = await db
      .transaction()
      .execute(async (transaction) => {
        await lockPermission(transaction, principal, 'webhooks.write');
        const written = await write(transaction);
        // Also of one that another caller has given its events: its address may have been changed.
        if (kind !== 'webhook.delete') requireReadable(principal, written.event_types);
        await appendEvents(transaction, [
          webhookEvent(principal, kind, written.id, { name: written.name, ...metadata }),
        ]);
        return written;
      })
      .catch((reason: unknown) => {
        if (isDuplicate(reason)) throw nameTaken();
        throw reason;
      });
    onEvents();
    return this.#shown(row);
  }

  #target(url: string): URL {
    return parseTarget(url, this.#parts.allowedNetworks);
  }

  #shown(webhook: Selectable<WebhookTable>): Webhook {
    const { url, secret: _, previous_secret: _p, previous_secret_until: _u, ...row } = webhook;
    return { ...row, host: new URL(this.#parts.secrets.open(SECRET_PURPOSE, url)).host };
  }
}

function webhookEvent(
  { teamId, actor }: Principal,
  kind: EventKind,
  resource: string,
  metadata: Readonly<Record<string, string>>,
): OutboxEvent {
  return { kind, resource, teamId, actor, status: 'success', metadata };
}

function notFound(id: string): TorporError {
  return new TorporError(
    'not_found',
    `The team has no webhook ${JSON.stringify(id.slice(0, 64))}.`,
  );
}

function nameTaken(): TorporError {
  return new TorporError('already_exists', 'The team has another webhook of this name.');
}
