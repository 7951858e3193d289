/**
 * Snapshots: names for builds. A name is a row here and a reference on the host; they
 * must stay consistent when a process dies between the two writes.
 *
 * - The row is written first, as `pending`, with the id under which the host will keep
 *   the build. Only when the host has the build does the row get its name (`ready`);
 *   in the same transaction the previous snapshot of the name becomes `deleting`.
 * - A `ready` row therefore always has its build; an overwritten one loses it only
 *   after its successor exists.
 * - The host is told to release what is `deleting`, and then the row is removed. A crash
 *   leaves rows that are `pending` or `deleting`, which no name refers to; the
 *   sweeper (sweeper.ts) finishes them.
 */
import { randomBytes } from 'node:crypto';
import { TorporError } from '@torpor/protocol';
import type { Principal } from '../auth/principal.ts';
import type { Cursor, Page } from '../database/page.ts';
import type { TemplateRow } from '../database/schema.ts';
import type { HostImage } from '../hosts/description.ts';
import type { HostInventory } from '../hosts/inventory.ts';
import { type CreateRecord, UNRECORDED } from '../idempotency/keys.ts';
import { findOwn, requireReachable } from '../sandboxes/access.ts';
import { createSnapshotOperation } from './create.ts';
import { deleteSnapshotOperation, unknownName } from './delete.ts';
import type { OperatedSnapshot, TemplateParts } from './parts.ts';

export interface TemplateServiceParts extends TemplateParts {
  readonly inventory: HostInventory;
}

export interface SnapshotRequest {
  readonly sandboxId: string;
  /** Generated if omitted. */
  readonly name?: string | undefined;
  /** Whether the name may be taken from a snapshot that has it. */
  readonly overwrite: boolean;
}

/** A template of sandboxes: a snapshot of the team, or an image of the platform. */
export type Template =
  | { readonly snapshot: TemplateRow; readonly image?: never }
  | { readonly image: HostImage; readonly snapshot?: never };

export class TemplateService {
  readonly #parts: TemplateServiceParts;

  constructor(parts: TemplateServiceParts) {
    this.#parts = parts;
  }

  /**
   * Stores the current state of a running or paused sandbox under a name; the sandbox is
   * paused afterwards. Throws `not_found`, `name_reserved`, `already_exists`,
   * `invalid_state`, or the agent's error; the name is unchanged then.
   */
  async create(
    principal: Principal,
    request: SnapshotRequest,
    record: CreateRecord = UNRECORDED,
  ): Promise<OperatedSnapshot> {
    const { sandboxes, runner } = this.#parts;
    const { sandboxId, overwrite } = request;
    const name = request.name ?? `template-${randomBytes(4).toString('hex')}`;
    requireReachable(await findOwn(sandboxes, principal, sandboxId));
    if (await this.#isImage(principal, name)) {
      throw new TorporError('name_reserved', `${name} is the name of an image of the platform.`);
    }
    const snapshot = { sandboxId, name, overwrite };
    return runner.run(createSnapshotOperation(this.#parts, principal, snapshot, record));
  }

  /** A snapshot that a control plane created and did not tell. Throws `not_found` if it has been deleted or replaced since. */
  async created({ teamId }: Principal, id: string): Promise<OperatedSnapshot> {
    const row = await this.#parts.templates.findReady(teamId, id);
    if (row !== undefined) return { row, timings: [] };
    throw new TorporError('not_found', 'The snapshot has been deleted or replaced since.');
  }

  /** The team's snapshots, newest first. */
  list({ teamId }: Principal, page: Page<Cursor>): Promise<TemplateRow[]> {
    return this.#parts.templates.list(teamId, page);
  }

  /** The images of the platform that the team's sandboxes can boot. */
  images({ teamId }: Principal): Promise<readonly HostImage[]> {
    return this.#parts.inventory.images(teamId);
  }

  /** Throws `not_found`. */
  async get(principal: Principal, name: string): Promise<Template> {
    const snapshot = await this.#find(principal, name);
    if (snapshot !== undefined) return { snapshot };
    const image = (await this.images(principal)).find((one) => one.name === name);
    if (image !== undefined) return { image };
    throw unknownName(name);
  }

  /**
   * Deletes the name at once, even if the host does not respond: it releases the build later.
   * Sandboxes that were created from it are not affected. Throws `not_found`, and `forbidden`
   * for an image of the platform.
   */
  async delete(principal: Principal, name: string): Promise<void> {
    if (
      (await this.#find(principal, name)) === undefined &&
      (await this.#isImage(principal, name))
    ) {
      throw new TorporError('forbidden', `${name} is an image of the platform.`, {
        remedy: 'The operator of the host can remove it with `torpor image rm`.',
      });
    }
    await this.#parts.runner.run(deleteSnapshotOperation(this.#parts, principal, name));
  }

  #find(principal: Principal, name: string): Promise<TemplateRow | undefined> {
    return this.#parts.templates.find(principal.teamId, name);
  }

  async #isImage(principal: Principal, name: string): Promise<boolean> {
    return (await this.images(principal)).some((image) => image.name === name);
  }
}
