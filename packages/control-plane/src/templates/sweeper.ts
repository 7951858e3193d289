import { TorporError } from '@torpor/protocol';
import { SYSTEM } from '../auth/principal.ts';
import type { TemplateRow } from '../database/schema.ts';
import type { HostConnection } from '../hosts/connection.ts';
import { PeriodicTask } from '../jobs/periodic-task.ts';
import { nameResource, releaseGivenUp, releaseTemplate, type TemplateParts } from './parts.ts';

const DEFAULT_INTERVAL_MS = 30_000;
const HOST_TIMEOUT_MS = 60_000;

/**
 * Periodically cleans up templates after a crash, or after a host did not respond: those that
 * are pending although no operation has locked their name, and those that are deleted but
 * still kept by a host. Corrects which hosts have which.
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
      await compare(parts, host, reported);
    }
  });
}

/**
 * Compares the templates that a host keeps with the rows. What was given up with the host that this machine was
 * before is released. Any other that no row has is kept, and reported once: a row is written
 * before its template is made, so such a row was lost, with an old backup of the database for
 * example, and the template may be the only copy of what its team saved.
 */
async function compare(
  parts: TemplateParts,
  host: HostConnection,
  reported: Set<string>,
): Promise<void> {
  const { templates, logger } = parts;
  try {
    // Before the host is asked: what it makes meanwhile is not taken for lost.
    const expected = await templates.readyOn(host.id);
    const { templateIds } = await host.call((client) =>
      client.listSnapshots({}, { timeoutMs: HOST_TIMEOUT_MS }),
    );
    const known = await templates.known(host.id, templateIds);
    for (const [template, row] of known) await recordFound(parts, host, { template, ...row });
    const unknown = templateIds.filter((id) => !known.has(id) && !reported.has(id));
    const givenUp = await templates.givenUp(unknown);
    for (const template of givenUp) await releaseGivenUp(parts, host.id, template);
    for (const template of unknown.filter((id) => !givenUp.has(id))) {
      reported.add(template);
      logger.warn(
        { template, host: host.id },
        'A template of the host was not found in the database; it is kept',
      );
    }
    const present = new Set(templateIds);
    for (const template of expected.filter((id) => !present.has(id))) {
      if (!(await templates.recordLoss(template, host.id))) continue;
      logger.error({ template, host: host.id }, 'A host no longer has the build of a template');
    }
  } catch (reason) {
    const err = TorporError.from(reason);
    logger.warn({ host: host.id, err }, 'Could not look for unknown templates; will retry');
  }
}

/** Records that a host has a build, if its team may use the host; one that is being deleted, so that the host releases it. */
async function recordFound(
  { templates, sandboxes, logger }: TemplateParts,
  host: HostConnection,
  found: Pick<TemplateRow, 'team_id' | 'state'> & { template: string; recorded: boolean },
): Promise<void> {
  const { template, team_id: teamId, state, recorded } = found;
  if (recorded || state === 'pending') return;
  if (state === 'ready' && !(await sandboxes.mayHost(host.id, teamId))) return;
  await templates.recordHost(template, host.id);
  logger.info({ template, host: host.id }, 'The build of a template was found on another host');
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
