/**
 * Snapshots: names for builds. A name is a row here and a reference on the host; they
 * must not drift apart when something dies between the two.
 *
 * - The row is written first, as `pending`, with the id under which the host will keep
 *   the build. Only when the host has the build does the row get its name (`ready`);
 *   in the same transaction what had the name before becomes `deleting`.
 * - A `ready` row therefore always has its build; an overwritten one loses it only
 *   after its successor is there.
 * - The host is told to let go of what is `deleting`, and then the row goes. A crash
 *   leaves rows that are `pending` or `deleting`, which nobody can name; the
 *   {@link TemplateSweeper} finishes them.
 */
import { randomBytes } from 'node:crypto';
import { canTransition, newId, type rest, TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import type { AuditLog } from '../audit/audit-log.ts';
import type { Principal } from '../auth/api-keys.ts';
import type { SandboxRow, TemplateRow } from '../database/schema.ts';
import { agentCall, type Host } from '../hosts/host.ts';
import type { Metrics } from '../observability/metrics.ts';
import { findOwn, notInState } from '../sandboxes/access.ts';
import { changesFrom, mirrorHost, settledRow } from '../sandboxes/host-state.ts';
import { Operations } from '../sandboxes/operations.ts';
import { type PhaseTimings, phaseTimings } from '../sandboxes/present.ts';
import type { SandboxRepository } from '../sandboxes/repository.ts';
import { presentImage, presentTemplate } from './present.ts';
import type { PublishedTemplate, TemplateRepository } from './repository.ts';
import { letGo } from './sweeper.ts';

const SNAPSHOT_TIMEOUT_MS = 10 * 60_000;

export interface TemplateServiceParts {
  readonly host: Host;
  readonly sandboxes: SandboxRepository;
  readonly templates: TemplateRepository;
  readonly operations: Operations;
  readonly audit: AuditLog;
  readonly metrics: Metrics;
  readonly logger: Logger;
}

interface MadeSnapshot extends PublishedTemplate {
  readonly timings: PhaseTimings;
}

export class TemplateService {
  readonly #parts: TemplateServiceParts;
  /** One change of a name at a time. */
  readonly #names = new Operations();

  constructor(parts: TemplateServiceParts) {
    this.#parts = parts;
  }

  /**
   * Keeps the present state of a running or paused sandbox under a name; the sandbox is
   * paused afterwards. Throws `not_found`, `name_reserved`, `already_exists`,
   * `invalid_state`, or what the agent says; the name is then as it was.
   */
  async create(
    principal: Principal,
    request: rest.CreateSnapshot,
    { overwrite }: { readonly overwrite: boolean },
  ): Promise<rest.Snapshot> {
    const { host, sandboxes, operations } = this.#parts;
    const { sandbox_id: id, name = `template-${randomBytes(4).toString('hex')}` } = request;
    await findOwn(sandboxes, principal, id);
    if ((await host.describe()).templates.includes(name)) {
      throw new TorporError('name_reserved', `${name} is the name of an image of the platform.`);
    }
    return this.#changeName(principal, name, async () => {
      if (!overwrite && (await this.#find(principal, name)) !== undefined) {
        throw new TorporError('already_exists', `There is a snapshot ${name} already.`, {
          remedy: 'Choose another name, or replace it with ?overwrite=true (--overwrite).',
        });
      }
      return operations.run(id, () => this.#commit(principal, id, name));
    });
  }

  async #commit(principal: Principal, id: string, name: string): Promise<rest.Snapshot> {
    const { sandboxes, templates, audit, metrics, logger } = this.#parts;
    const source = await settledRow(this.#parts, principal, id);
    if (!canTransition(source.state, 'snapshotting')) throw notInState(source, 'running or paused');
    const finished = metrics.operationDuration.startTimer({ operation: 'snapshot' });
    const entry = {
      teamId: source.team_id,
      actor: principal,
      action: 'create',
      snapshot: name,
      metadata: { sandbox: id },
    } as const;
    const pending = await templates.insert(pendingRow(source, name));
    let made: MadeSnapshot;
    try {
      await sandboxes.update(id, { state: 'snapshotting' });
      made = await this.#commitOnHost(pending, source);
    } catch (reason) {
      const error = TorporError.from(reason);
      finished({ outcome: error.code });
      logger.error({ sandbox: id, err: error }, 'Snapshot could not be made');
      await mirrorHost(this.#parts, id).catch((cause: unknown) =>
        // The reconciler will copy it as soon as the agent answers.
        logger.warn({ sandbox: id, err: cause }, 'The state of a sandbox is open'),
      );
      await templates.markDeleting(pending.id);
      await letGo(this.#parts, pending);
      await audit.record({
        ...entry,
        status: 'error',
        metadata: { ...entry.metadata, code: error.code },
      });
      throw error;
    }
    if (made.replaced !== undefined) await letGo(this.#parts, made.replaced);
    await audit.record({ ...entry, status: 'success' });
    finished({ outcome: 'success' });
    logger.info({ sandbox: id, template: made.row.id }, 'Snapshot made');
    return presentTemplate(made.row, made.timings);
  }

  async #commitOnHost(pending: TemplateRow, source: SandboxRow): Promise<MadeSnapshot> {
    const { host, sandboxes, templates } = this.#parts;
    const answer = await agentCall(() =>
      host.client.createSnapshot(
        { sandboxId: source.id, teamId: source.team_id, templateId: pending.id },
        { timeoutMs: SNAPSHOT_TIMEOUT_MS },
      ),
    );
    const info = answer.sandbox;
    if (info === undefined) {
      throw new TorporError('internal_error', 'The host agent answered without the sandbox.');
    }
    await sandboxes.update(source.id, changesFrom(info));
    const published = await templates.publish(pending.id, {
      build_id: info.buildId ?? null,
      vcpus: answer.vcpus || source.vcpus,
      memory_mb: answer.memoryMb || source.memory_mb,
      disk_size_mb: info.diskSizeMb || source.disk_size_mb,
      size_bytes: Number(answer.sizeBytes),
    });
    return { ...published, timings: phaseTimings(answer.timings) };
  }

  /** The team's snapshots, newest first, and the images of the platform. */
  async list(principal: Principal, type?: rest.TemplateType): Promise<rest.Snapshot[]> {
    const own = type === 'base' ? [] : await this.#parts.templates.list(principal.teamId);
    const images = type === 'snapshot' ? [] : (await this.#parts.host.describe()).images;
    return [...own.map((row) => presentTemplate(row)), ...images.map(presentImage)];
  }

  /** Throws `not_found`. */
  async get(principal: Principal, name: string): Promise<rest.Snapshot> {
    const row = await this.#find(principal, name);
    if (row !== undefined) return presentTemplate(row);
    const image = (await this.#parts.host.describe()).images.find((one) => one.name === name);
    if (image !== undefined) return presentImage(image);
    throw unknownName(name);
  }

  /**
   * Takes the name away at once, also if the host does not answer: it lets go of the
   * build later. Sandboxes made from it are not touched. Throws `not_found`, and
   * `forbidden` for an image of the platform.
   */
  async delete(principal: Principal, name: string): Promise<void> {
    const { host, templates, audit, logger } = this.#parts;
    await this.#changeName(principal, name, async () => {
      const row = await this.#find(principal, name);
      if (row === undefined) {
        const { templates: images } = await host.describe();
        if (!images.includes(name)) throw unknownName(name);
        throw new TorporError('forbidden', `${name} is an image of the platform.`, {
          remedy: 'Whoever runs the host can remove it with `torpor image rm`.',
        });
      }
      await templates.markDeleting(row.id);
      await letGo(this.#parts, row);
      await audit.record({
        teamId: principal.teamId,
        actor: principal,
        action: 'delete',
        snapshot: name,
        status: 'success',
      });
      logger.info({ template: row.id }, 'Snapshot deleted');
    });
  }

  /** Resolves when no name is being changed. */
  settled(): Promise<void> {
    return this.#names.settled();
  }

  #changeName<T>(principal: Principal, name: string, change: () => Promise<T>): Promise<T> {
    return this.#names.run(`${principal.teamId}/${name}`, change);
  }

  #find(principal: Principal, name: string): Promise<TemplateRow | undefined> {
    return this.#parts.templates.find(principal.teamId, name);
  }
}

function unknownName(name: string): TorporError {
  return new TorporError(
    'not_found',
    `There is no snapshot ${JSON.stringify(name.slice(0, 128))}.`,
    { remedy: '`torpor templates` shows those that there are.' },
  );
}

function pendingRow(source: SandboxRow, name: string) {
  return {
    id: newId('template'),
    team_id: source.team_id,
    name,
    type: 'snapshot' as const,
    state: 'pending' as const,
    host_id: source.host_id,
    source_sandbox_id: source.id,
    build_id: null,
    vcpus: source.vcpus,
    memory_mb: source.memory_mb,
    disk_size_mb: source.disk_size_mb,
    size_bytes: 0,
    metadata: JSON.stringify(source.versions),
  };
}
