import { TorporError } from '@torpor/protocol';
import { SYSTEM } from '../auth/principal.ts';
import type { TemplateRow } from '../database/schema.ts';
import type { HostConnection } from '../hosts/connection.ts';
import { PeriodicTask } from '../jobs/periodic-task.ts';
import { nameResource, releaseTemplate, type TemplateParts } from './parts.ts';

const DEFAULT_INTERVAL_MS = 30_000;
const HOST_TIMEOUT_MS = 60_000;

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
  const reported = new Set<string>();
  return new PeriodicTask({ intervalMs, logger, failure }, async (signal) => {
    for (const host of hosts.all()) {
      for (const row of await templates.unsettled(host.id)) {
        if (signal.aborted) return;
        await settle(parts, row);
      }
      if (signal.aborted) return;
      await reportUnknown(parts, host, reported);
    }
  });
}

/**
 * Warns once of each template that a host keeps and no row has. It is kept: a row is written
 * before its template is made, so such a row was lost, with an old backup of the database for
 * example, and the template may be the only copy of what its team saved.
 */
async function reportUnknown(
  { templates, logger }: TemplateParts,
  host: HostConnection,
  reported: Set<string>,
): Promise<void> {
  try {
    const { templateIds } = await host.call((client) =>
      client.listSnapshots({}, { timeoutMs: HOST_TIMEOUT_MS }),
    );
    const known = await templates.known(templateIds);
    for (const template of templateIds) {
      if (known.has(template) || reported.has(template)) continue;
      reported.add(template);
      logger.warn(
        { template, host: host.id },
        'A template of the host was not found in the database; it is kept',
      );
    }
  } catch (reason) {
    const err = TorporError.from(reason);
    logger.warn({ host: host.id, err }, 'Could not look for unknown templates; will retry');
  }
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
