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
 * Makes the hosts release a template that is `deleting`, which is final, and removes its row when all
 * have. A failure of a host is not an error: the sweeper retries.
 */
export async function releaseTemplate(
  parts: Pick<TemplateParts, 'hosts' | 'templates' | 'runner' | 'logger'>,
  { id, team_id: teamId }: TemplateRow,
): Promise<void> {
  const { templates, runner } = parts;
  const intent = { kind: 'snapshot.delete', teamId, actor: SYSTEM } as const;
  await runner.withLock(`${TEMPLATE_PREFIX}${id}`, intent, async ({ write, fence }) => {
    if ((await templates.findDeleting(id)) === undefined) return;
    const message = { teamId, templateId: id, fence: await fence() };
    const hostIds = await templates.hostsOf(id);
    const released = await Promise.all(
      hostIds.map(async (hostId) => ((await isReleased(parts, hostId, message)) ? [hostId] : [])),
    );
    await write(async (transaction) => {
      const rows = new TemplateRepository(transaction);
      for (const hostId of released.flat()) await rows.recordRelease(id, hostId);
      await rows.removeReleased(id);
    });
  });
}

/** Makes a host release what it has of a template that was given up with the host that the machine was. */
export async function releaseGivenUp(
  parts: Pick<TemplateParts, 'hosts' | 'runner' | 'logger'>,
  hostId: string,
  id: string,
): Promise<void> {
  const intent = { kind: 'snapshot.delete', teamId: null, actor: SYSTEM } as const;
  await parts.runner.withLock(`${TEMPLATE_PREFIX}${id}`, intent, async ({ fence }) => {
    await isReleased(parts, hostId, { teamId: '', templateId: id, fence: await fence() });
  });
}

/** Whether the host has confirmed that it does not have the template. */
async function isReleased(
  { hosts, logger }: Pick<TemplateParts, 'hosts' | 'logger'>,
  hostId: string,
  message: { readonly teamId: string; readonly templateId: string; readonly fence: bigint },
): Promise<boolean> {
  try {
    const host = hosts.connection(hostId);
    // It would be waited for, with each template again.
    if (!host.isResponding) return false;
    await host.call((client) => client.deleteSnapshot(message, { timeoutMs: DELETE_TIMEOUT_MS }));
    return true;
  } catch (reason) {
    const err = TorporError.from(reason);
    if (err.code === 'not_found') return true;
    const template = message.templateId;
    logger.warn({ template, host: hostId, err }, 'Could not release a template; will retry');
    return false;
  }
}
