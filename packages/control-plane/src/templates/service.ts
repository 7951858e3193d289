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
import { requireFree } from './names.ts';
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
  /** What its sandboxes start programs with; what is undefined is that of the source. */
  readonly defaultUser?: string | undefined;
  readonly defaultEnv?: Readonly<Record<string, string>> | undefined;
}

/** A template of sandboxes: a snapshot of the team or of the platform, or an image. */
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
   * paused afterwards. A snapshot of the platform's team is a template of every team. Throws, in
   * this order, `name_reserved`, `template_name_taken`, `not_found`, `invalid_state`,
   * `quota_exceeded`, or the agent's error; the name is unchanged then.
   */
  async create(
    principal: Principal,
    request: SnapshotRequest,
    record: CreateRecord = UNRECORDED,
  ): Promise<OperatedSnapshot> {
    const { sandboxes, templates, runner } = this.#parts;
    const name = request.name ?? `template-${randomBytes(4).toString('hex')}`;
    const snapshot = { ...request, name };
    if (await this.#isImage(principal, name)) {
      throw new TorporError('name_reserved', `${name} is the name of an image of the platform.`);
    }
    await requireFree(templates, principal.teamId, snapshot);
    requireReachable(await findOwn(sandboxes, principal, request.sandboxId));
    return runner.run(createSnapshotOperation(this.#parts, principal, snapshot, record));
  }

  /** A snapshot that a control plane created and did not tell. Throws `not_found` if it has been deleted or replaced since. */
  async created({ teamId }: Principal, id: string): Promise<OperatedSnapshot> {
    const row = await this.#parts.templates.findReady(teamId, id);
    if (row !== undefined) return { row, timings: [] };
    throw new TorporError('not_found', 'The snapshot has been deleted or replaced since.');
  }

  /** The snapshots of the team and of the platform, newest first. */
  list({ teamId }: Principal, page: Page<Cursor>): Promise<TemplateRow[]> {
    return this.#parts.templates.list(teamId, page);
  }

  /** The images that the team's sandboxes can boot. */
  images({ teamId }: Principal): Promise<readonly HostImage[]> {
    return this.#parts.inventory.images(teamId);
  }

  /** Throws `not_found`. */
  async get(principal: Principal, name: string): Promise<Template> {
    const snapshot = await this.#parts.templates.findUsable(principal.teamId, name);
    if (snapshot !== undefined) return { snapshot };
    const image = (await this.images(principal)).find((one) => one.name === name);
    if (image !== undefined) return { image };
    throw unknownName(name);
  }

  /**
   * Deletes the name at once, even if the host does not respond: it releases the build later.
   * Sandboxes that were created from it are not affected. Throws `not_found`, and `forbidden`
   * for an image, and for a template of the platform unless its team deletes it.
   */
  async delete(principal: Principal, name: string): Promise<void> {
    const { templates, runner } = this.#parts;
    const found = await templates.findUsable(principal.teamId, name);
    if (found === undefined && (await this.#isImage(principal, name))) {
      throw notDeletedHere(name, 'The operator of the host can remove it with `torpor image rm`.');
    }
    if (found !== undefined && found.team_id !== principal.teamId) {
      throw notDeletedHere(name, 'An admin of the platform can delete it in the team Platform.');
    }
    await runner.run(deleteSnapshotOperation(this.#parts, principal, name));
  }

  async #isImage(principal: Principal, name: string): Promise<boolean> {
    return (await this.images(principal)).some((image) => image.name === name);
  }
}

function notDeletedHere(name: string, remedy: string): TorporError {
  return new TorporError(
    'forbidden',
    `${name} belongs to the platform: platform templates cannot be deleted here.`,
    { remedy },
  );
}
