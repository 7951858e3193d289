import { rest } from '@torpor/protocol';
import type { AuditEntry, AuditFilter, AuditLog } from '../../events/audit-log.ts';
import { type Api, addEndpoint, defineEndpoint } from '../endpoint.ts';

const LIST = defineEndpoint({
  method: 'get',
  path: '/v1/audit-logs',
  operationId: 'listAuditLog',
  access: 'audit.read',
  summary: 'Read the audit log of the team, or of all teams, newest first',
  tag: 'Audit',
  query: rest.listAuditQuerySchema,
  responses: {
    200: {
      description: 'A page of entries.',
      content: { 'application/json': rest.auditPageSchema },
    },
  },
});

export function addAuditRoutes(api: Api, auditLog: AuditLog): void {
  addEndpoint(api, LIST, async (c, { query }) => {
    const { entries, more } = await auditLog.list(c.get('principal'), filterOf(query));
    const last = more ? entries.at(-1) : undefined;
    return c.json({
      items: entries.map(presentEntry),
      ...(last === undefined
        ? {}
        : { next_before: last.created_at.toISOString(), next_before_id: last.id }),
    } satisfies rest.AuditPage);
  });
}

function filterOf(query: rest.ListAuditQuery): AuditFilter {
  const { before, before_id: id, since } = query;
  return {
    resourceType: query.resource_type,
    resourceId: query.resource_id,
    action: query.action,
    actorType: query.actor_type,
    actorId: query.actor_id,
    status: query.status,
    scope: query.scope,
    since: since === undefined ? undefined : new Date(since),
    before: before === undefined ? undefined : { createdAt: new Date(before), id },
    allTeams: query.all_teams === 'true',
    limit: query.limit,
  };
}

function presentEntry(entry: AuditEntry): rest.AuditEntry {
  const { actor_id, actor_name, metadata } = entry;
  return {
    id: entry.id,
    team_id: entry.team_id,
    actor_type: entry.actor_type,
    ...(actor_id === null ? {} : { actor_id }),
    ...(actor_name === null ? {} : { actor_name }),
    resource_type: entry.resource_type,
    resource_id: entry.resource_id,
    action: entry.action,
    scope: entry.scope,
    status: entry.status,
    ...(Object.keys(metadata).length === 0 ? {} : { metadata }),
    created_at: entry.created_at.toISOString(),
  };
}
