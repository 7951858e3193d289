import { REMEDIES, TorporError } from '@torpor/protocol';
import type { Principal } from '../auth/principal.ts';
import type { TemplateRow } from '../database/schema.ts';
import type { Operation } from '../operations/runner.ts';
import { nameResource, releaseTemplate, snapshotEvent, type TemplateParts } from './parts.ts';
import { TemplateRepository } from './repository.ts';

/**
 * Deletes a name at once, even if the host does not respond: then the sweeper makes it
 * release the build later.
 */
export function deleteSnapshotOperation(
  parts: TemplateParts,
  principal: Principal,
  name: string,
): Operation<TemplateRow, void, TemplateRow> {
  const { teamId } = principal;
  const event = { teamId, resource: name };
  return {
    kind: 'snapshot.delete',
    resources: [nameResource(teamId, name)],
    teamId,
    actor: principal.actor,
    begin: async () => {
      const row = await parts.templates.find(teamId, name);
      if (row === undefined) throw unknownName(name);
      return row;
    },
    perform: async () => undefined,
    complete: async (transaction, row) => {
      await new TemplateRepository(transaction).markDeleting(row.id);
      return { result: row, events: [snapshotEvent(event, 'success')] };
    },
    settle: async () => async () => [snapshotEvent(event, 'error')],
    finish: async (_, row) => {
      if (row !== undefined) await releaseTemplate(parts, row);
    },
  };
}

export function unknownName(name: string): TorporError {
  return new TorporError(
    'not_found',
    `There is no snapshot ${JSON.stringify(name.slice(0, 128))}.`,
    { remedy: REMEDIES.listTemplates },
  );
}
