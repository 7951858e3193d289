import { TorporError } from '@torpor/protocol';
import { SYSTEM } from '../auth/principal.ts';
import type { TemplateRow } from '../database/schema.ts';
import type { PhaseTiming } from '../hosts/timings.ts';
import type { ResourceEvent } from '../operations/runner.ts';
import type { SandboxParts } from '../sandboxes/parts.ts';
import { TemplateRepository } from './repository.ts';

const DELETE_TIMEOUT_MS = 60_000;

/** The dependencies of the operations on snapshots. */
export interface TemplateParts extends SandboxParts {
  readonly templates: TemplateRepository;
}

/** A snapshot after an operation, and how long the operation's phases took. */
export interface OperatedSnapshot {
  readonly row: TemplateRow;
  readonly timings: readonly PhaseTiming[];
}

/** Prefix of the resources of names; sandboxes are locked by their ids. */
export const NAME_PREFIX = 'name:';

/**
 * Prefix of the resources of templates, which are locked while the host releases them. Not those
 * of their names: an operation that holds a name releases templates.
 */
const TEMPLATE_PREFIX = 'template:';

/** The resource that is locked while a name is assigned or deleted. */
export function nameResource(teamId: string, name: string): string {
  return `${NAME_PREFIX}${teamId}/${name}`;
}

export function snapshotEvent(
  event: Omit<ResourceEvent, 'status'>,
  status: ResourceEvent['status'],
): ResourceEvent {
  return { ...event, status };
}

/**
 * Makes the host release a template that is `deleting`, which is final, and removes its row.
 * A failure of the host is not an error: the sweeper retries.
 */
export async function releaseTemplate(
  parts: Pick<TemplateParts, 'hosts' | 'templates' | 'runner' | 'logger'>,
  { id, team_id: teamId }: TemplateRow,
): Promise<void> {
  const { hosts, templates, runner, logger } = parts;
  const intent = { kind: 'snapshot.delete', teamId, actor: SYSTEM } as const;
  await runner.withLock(`${TEMPLATE_PREFIX}${id}`, intent, async ({ write, fence }) => {
    const row = await templates.findDeleting(id);
    if (row === undefined) return;
    const message = { teamId, templateId: id, fence: await fence() };
    try {
      await hosts
        .connection(row.host_id)
        .call((client) => client.deleteSnapshot(message, { timeoutMs: DELETE_TIMEOUT_MS }));
    } catch (reason) {
      const error = TorporError.from(reason);
      if (error.code !== 'not_found') {
        logger.warn({ template: id, err: error }, 'Could not release a template; will retry');
        return;
      }
    }
    await write((transaction) => new TemplateRepository(transaction).remove(id));
  });
}
