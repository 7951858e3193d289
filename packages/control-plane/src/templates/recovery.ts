import type { Recovery, ResourceEvent } from '../operations/runner.ts';
import { settledInfo } from '../sandboxes/recovery.ts';
import { NAME_PREFIX, snapshotEvent, type TemplateParts } from './parts.ts';
import { TemplateRepository } from './repository.ts';

/**
 * Settles an operation on a name whose control plane died: a snapshot that was being created
 * is rolled back. Its row is only marked, and the host releases the build afterwards.
 */
export function nameRecovery(parts: TemplateParts): Recovery {
  return async ({ resource, wait }) => {
    const [teamId = '', ...name] = resource.slice(NAME_PREFIX.length).split('/');
    const pending = await parts.templates.listPending(teamId, name.join('/'));
    for (const { host_id: hostId, source_sandbox_id: source } of pending) {
      // An agent that is still creating it would set the reference after it was told to drop it.
      const row = source === null ? undefined : await parts.sandboxes.findById(source);
      if (row !== undefined) await settledInfo(parts.hosts.connection(hostId), row, wait);
    }
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
