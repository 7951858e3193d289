import { TorporError } from '@torpor/protocol';
import type { TemplateRow } from '../database/schema.ts';
import { SYSTEM } from '../events/outbox.ts';
import { PeriodicTask } from '../jobs/periodic-task.ts';
import { nameResource, releaseTemplate, type TemplateParts } from './parts.ts';

const DEFAULT_INTERVAL_MS = 30_000;

/**
 * Periodically cleans up templates after a crash, or after a host did not respond: those that
 * are pending although no operation has locked their name, and those that are deleted but
 * still kept by the host.
 */
export function startTemplateSweeper(
  parts: TemplateParts,
  intervalMs: number = DEFAULT_INTERVAL_MS,
): AsyncDisposable {
  const { templates, hosts, logger } = parts;
  const failure = 'Could not look for templates to settle';
  return new PeriodicTask({ intervalMs, logger, failure }, async (signal) => {
    for (const host of hosts.all()) {
      for (const row of await templates.unsettled(host.id)) {
        if (signal.aborted) return;
        await settle(parts, row);
      }
    }
  });
}

async function settle(parts: TemplateParts, row: TemplateRow): Promise<void> {
  try {
    if (row.state === 'deleting') return await releaseTemplate(parts, row);
    await parts.runner.recover(nameResource(row.team_id, row.name), {
      kind: 'snapshot.create',
      teamId: row.team_id,
      actor: SYSTEM,
    });
  } catch (reason) {
    const err = TorporError.from(reason);
    parts.logger.warn({ template: row.id, err }, 'Could not settle a template; will retry');
  }
}
