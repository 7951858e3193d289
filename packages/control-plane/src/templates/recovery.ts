import type { Recovery, ResourceEvent } from '../operations/runner.ts';
import { NAME_PREFIX, snapshotEvent, type TemplateParts } from './parts.ts';
import { TemplateRepository } from './repository.ts';

/**
 * Settles an operation on a name whose control plane died: a snapshot that was being created
 * is rolled back. Its row is only marked, and the host is told to release the build afterwards.
 * It then refuses, by the fence, to keep one for a call of that control plane that is late.
 */
export function nameRecovery(parts: TemplateParts): Recovery {
  return async ({ resource }) => {
    const [teamId = '', ...name] = resource.slice(NAME_PREFIX.length).split('/');
    const pending = await parts.templates.listPending(teamId, name.join('/'));
    return async (transaction): Promise<ResourceEvent[]> => {
      const templates = new TemplateRepository(transaction);
      for (const { id } of pending) await templates.markDeleting(id);
      return pending.map((row) =>
        snapshotEvent(
          {
            teamId: row.team_id,
            resource: row.name,
            metadata: row.source_sandbox_id === null ? {} : { sandbox: row.source_sandbox_id },
          },
          'error',
        ),
      );
    };
  };
}
