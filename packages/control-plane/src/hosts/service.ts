/**
 * Hosts as users see them. A host belongs to a team, whose sandboxes alone are placed on it, or
 * to the platform. Who operates the platform sees and changes those of the platform too.
 */
import { newId, type Permission, type SandboxState, TorporError } from '@torpor/protocol';
import { newJoinToken, parseJoinToken } from '@torpor/protocol/tls';
import type { UpdateObject } from 'kysely';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Principal } from '../auth/principal.ts';
import type { Database, EventKind, HostRow } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import { lockPermission } from '../teams/membership.ts';
import type { Authority } from './authority.ts';
import { sha256 } from './digest.ts';
import { lockHost } from './placement.ts';
import { HostRepository, hostEvent } from './repository.ts';

export interface HostRequest {
  readonly type: 'regular' | 'team';
  readonly name: string;
  readonly tags: readonly string[];
}

/** What is undefined stays as it is. */
export interface HostChanges {
  readonly name?: string | undefined;
  readonly draining?: boolean | undefined;
}

/** A token to join with: the only time that it can be seen. */
export interface IssuedToken {
  readonly token: string;
  readonly expiresAt: Date;
  /** Where the agent finds the control plane. */
  readonly joinUrl: string;
}

/** What a host has that is lost with it. */
export interface HostContents {
  /** Those that are not stopped: paused ones too. */
  readonly sandboxes: readonly { readonly id: string; readonly state: SandboxState }[];
  /** Names of the snapshots that no other host has. */
  readonly snapshots: readonly string[];
}

/** The access to what hosts have (sandboxes/, templates/). */
export interface HostedRows {
  contents(db: Kysely<Database>, hostId: string): Promise<HostContents>;
  /** Gives up everything of a host. Throws `conflict` while an operation works on it. */
  giveUp(transaction: Transaction<Database>, hostId: string): Promise<void>;
}

export interface HostServiceParts {
  readonly db: Kysely<Database>;
  /** Throws `host_setup`. */
  readonly authority: () => Promise<Authority>;
  /** Where agents find the control plane; undefined if it does not listen for them. */
  readonly joinUrl: () => string | undefined;
  readonly hosted: HostedRows;
  readonly onEvents: () => void;
  /** Called when a row has changed. */
  readonly onChange: () => void;
}

const TOKEN_LIFETIME_MS = 3_600_000;
const NAMED_SANDBOXES = 20;
const MAX_TAGS = 64;

export class HostService {
  readonly #parts: HostServiceParts;
  readonly #hosts: HostRepository;

  constructor(parts: HostServiceParts) {
    this.#parts = parts;
    this.#hosts = new HostRepository(parts.db);
  }

  /** A host that a machine can join as. Throws `forbidden`, and `not_implemented` if agents cannot connect here. */
  async create(
    principal: Principal,
    { type, name, tags }: HostRequest,
  ): Promise<{ readonly host: HostRow } & IssuedToken> {
    const { teamId, actor } = principal;
    if (type === 'regular' && !isOperator(principal)) throw operatorsOnly();
    const issued = await this.#newToken();
    const needs = needsFor({ team_id: type === 'team' ? teamId : null });
    const host = await this.#write('host.create', principal, async (transaction) => {
      await lockPermission(transaction, principal, ...needs);
      const row = await transaction
        .insertInto('hosts')
        .values({
          id: newId('host'),
          kind: 'joined',
          name,
          team_id: type === 'team' ? teamId : null,
          audit_team_id: teamId,
          state: 'pending',
          tags: [...new Set(tags)],
          created_by: actor.id,
        })
        .returningAll()
        .executeTakeFirstOrThrow();
      await insertToken(transaction, principal, row, issued);
      return row;
    });
    return { host, ...issued };
  }

  /** Oldest first. */
  async list(principal: Principal): Promise<HostRow[]> {
    return (await this.#hosts.list()).filter((row) => isVisible(principal, row));
  }

  /** Throws `not_found`. */
  async get(principal: Principal, id: string): Promise<HostRow> {
    const row = await this.#hosts.find(id);
    if (row === undefined || !isVisible(principal, row)) throw unknownHost(id);
    return row;
  }

  /** Throws `not_found`. */
  async update(principal: Principal, id: string, changes: HostChanges): Promise<HostRow> {
    const { name, draining } = changes;
    const metadata = draining === undefined ? {} : { draining: String(draining) };
    return this.#update(principal, id, { name, draining }, metadata);
  }

  /** A tag that it has already changes nothing. Throws `not_found`, `invalid_request` for too many. */
  async addTag(principal: Principal, id: string, tag: string): Promise<HostRow> {
    const { tags } = await this.get(principal, id);
    if (tags.includes(tag)) return this.get(principal, id);
    if (tags.length >= MAX_TAGS) {
      throw new TorporError('invalid_request', `A host has at most ${MAX_TAGS} tags.`);
    }
    const added = sql<string[]>`array_append(array_remove(tags, ${tag}), ${tag})`;
    return this.#update(principal, id, { tags: added }, { tag_added: tag });
  }

  /** Throws `not_found`, also for a tag that it does not have. */
  async removeTag(principal: Principal, id: string, tag: string): Promise<HostRow> {
    if (!(await this.get(principal, id)).tags.includes(tag)) {
      throw new TorporError('not_found', `The host ${id} has no tag ${JSON.stringify(tag)}.`);
    }
    const removed = sql<string[]>`array_remove(tags, ${tag})`;
    return this.#update(principal, id, { tags: removed }, { tag_removed: tag });
  }

  /**
   * Another token for a host: for a machine that has not joined yet, or has lost its key.
   * Earlier tokens are no longer valid. Throws `not_found`, `invalid_state`.
   */
  async renewToken(principal: Principal, id: string): Promise<IssuedToken> {
    const host = await this.get(principal, id);
    if (host.kind === 'local') throw isLocal(id);
    const issued = await this.#newToken();
    const replace = async (transaction: Transaction<Database>) => {
      await lockPermission(transaction, principal, ...needsFor(host));
      await transaction.deleteFrom('host_tokens').where('host_id', '=', id).execute();
      await insertToken(transaction, principal, host, issued);
      return transaction
        .selectFrom('hosts')
        .selectAll()
        .where('id', '=', id)
        .executeTakeFirstOrThrow(() => unknownHost(id));
    };
    await this.#write('host.update', principal, replace, { token: 'created' });
    return issued;
  }

  /** What is lost if the host is deleted. Throws `not_found`. */
  async deletePreview(
    principal: Principal,
    id: string,
  ): Promise<{ readonly host: HostRow } & HostContents> {
    const host = await this.get(principal, id);
    return { host, ...(await this.#parts.hosted.contents(this.#parts.db, id)) };
  }

  /**
   * Deletes a host: its certificate is refused from then on. Throws `not_found`, and
   * `has_active_sandboxes` while there are sandboxes that are not stopped; with `force` these
   * and the snapshots are given up. What runs on the machine keeps running, and is removed if the
   * machine joins again.
   */
  async delete(principal: Principal, id: string, force: boolean): Promise<void> {
    const { kind, state } = await this.get(principal, id);
    if (kind === 'local' && state === 'online') throw isLocal(id);
    const { hosted } = this.#parts;
    await this.#write('host.delete', principal, async (transaction) => {
      // From here on nothing is placed on it.
      await lockHost(transaction, id);
      const contents = await hosted.contents(transaction, id);
      const isEmpty = contents.sandboxes.length + contents.snapshots.length === 0;
      if (!isEmpty && !force) throw stillHas(id, contents);
      // Of an empty one: snapshots that it should still have released.
      await hosted.giveUp(transaction, id);
      return transaction
        .deleteFrom('hosts')
        .where('id', '=', id)
        .returningAll()
        .executeTakeFirstOrThrow(() => unknownHost(id));
    });
  }

  async #update(
    principal: Principal,
    id: string,
    changes: UpdateObject<Database, 'hosts'>,
    metadata: Readonly<Record<string, string>>,
  ): Promise<HostRow> {
    await this.get(principal, id);
    const write = (transaction: Transaction<Database>) =>
      transaction
        .updateTable('hosts')
        .set({ ...changes, updated_at: new Date() })
        .where('id', '=', id)
        .returningAll()
        .executeTakeFirstOrThrow(() => unknownHost(id));
    return this.#write('host.update', principal, write, metadata);
  }

  async #newToken(): Promise<IssuedToken> {
    const joinUrl = this.#parts.joinUrl();
    if (joinUrl === undefined) {
      throw new TorporError('not_implemented', 'This server does not listen for agents.', {
        remedy: 'Start the server as `torpor up --accept-agents`, or as `torpor control-plane`.',
      });
    }
    const { fingerprint } = await this.#parts.authority();
    const expiresAt = new Date(Date.now() + TOKEN_LIFETIME_MS);
    return { token: newJoinToken(fingerprint), expiresAt, joinUrl };
  }

  async #write(
    kind: EventKind,
    { actor }: Principal,
    write: (transaction: Transaction<Database>) => Promise<HostRow>,
    metadata: Readonly<Record<string, string>> = {},
  ): Promise<HostRow> {
    const row = await this.#parts.db.transaction().execute(async (transaction) => {
      const written = await write(transaction);
      await appendEvents(transaction, [hostEvent(kind, written, { actor, metadata })]);
      return written;
    });
    this.#parts.onEvents();
    this.#parts.onChange();
    return row;
  }
}

async function insertToken(
  transaction: Transaction<Database>,
  { teamId, onBehalfOf }: Principal,
  host: HostRow,
  { token, expiresAt }: IssuedToken,
): Promise<void> {
  const secret = parseJoinToken(token)?.secret ?? '';
  await transaction
    .insertInto('host_tokens')
    .values({
      token_hash: sha256(secret),
      host_id: host.id,
      team_id: teamId,
      user_id: onBehalfOf ?? null,
      needs: needsFor(host),
      expires_at: expiresAt,
    })
    .execute();
}

/** What a token of the host may be made with. */
function needsFor({ team_id }: Pick<HostRow, 'team_id'>): Permission[] {
  return team_id === null ? ['hosts.write', 'platform'] : ['hosts.write'];
}

function isOperator({ permissions }: Principal): boolean {
  return permissions.has('platform');
}

function isVisible(principal: Principal, { team_id }: HostRow): boolean {
  return team_id === principal.teamId || (team_id === null && isOperator(principal));
}

function unknownHost(id: string): TorporError {
  return new TorporError('not_found', `There is no host ${JSON.stringify(id.slice(0, 64))}.`);
}

function operatorsOnly(): TorporError {
  return new TorporError('forbidden', 'Hosts of the platform need the permission platform.', {
    remedy: 'Create a host of the team, or use a key with that scope.',
  });
}

function isLocal(id: string): TorporError {
  return new TorporError('invalid_state', `The host ${id} is that of a running \`torpor up\`.`, {
    remedy: 'Stop that server first.',
  });
}

function stillHas(id: string, { sandboxes, snapshots }: HostContents): TorporError {
  const sandboxIds = sandboxes.map((sandbox) => sandbox.id);
  const named = sandboxIds.slice(0, NAMED_SANDBOXES).join(', ');
  const rest = sandboxIds.length - NAMED_SANDBOXES;
  const more = rest > 0 ? `, and ${rest} more` : '';
  const parts = [
    ...(sandboxIds.length > 0 ? [`${counted(sandboxIds, 'sandbox', 'es')} (${named}${more})`] : []),
    ...(snapshots.length > 0 ? [counted(snapshots, 'snapshot', 's')] : []),
  ];
  return new TorporError(
    'has_active_sandboxes',
    `The host ${id} has ${parts.join(' and ')}, which would be lost.`,
  );
}

function counted({ length }: readonly string[], noun: string, plural: string): string {
  return `${length} ${noun}${length === 1 ? '' : plural}`;
}
