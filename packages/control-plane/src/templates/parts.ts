import { TorporError } from '@torpor/protocol';
import type { TemplateRow } from '../database/schema.ts';
import type { PhaseTiming } from '../hosts/timings.ts';
import type { ResourceEvent } from '../operations/runner.ts';
import type { SandboxParts } from '../sandboxes/parts.ts';
import type { TemplateRepository } from './repository.ts';

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
  { hosts, templates, logger }: Pick<TemplateParts, 'hosts' | 'templates' | 'logger'>,
  { id }: TemplateRow,
): Promise<void> {
  const row = await templates.findDeleting(id);
  if (row === undefined) return;
  try {
    await hosts
      .connection(row.host_id)
      .call((client) =>
        client.deleteSnapshot(
          { teamId: row.team_id, templateId: row.id },
          { timeoutMs: DELETE_TIMEOUT_MS },
        ),
      );
  } catch (reason) {
    const error = TorporError.from(reason);
    if (error.code !== 'not_found') {
      logger.warn({ template: row.id, err: error }, 'Could not release a template; will retry');
      return;
    }
  }
  await templates.remove(row.id);
}
