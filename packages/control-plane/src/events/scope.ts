import { type RawBuilder, sql } from 'kysely';
import type { Principal } from '../auth/principal.ts';
import type { AuditScope, EventKind } from '../database/schema.ts';

/** Kinds of resources that every member of a team works with. What happens to others is for admins. */
const SHARED_RESOURCES = ['sandbox', 'snapshot'];

/** Who may know of an event. */
export function scopeOf(kind: EventKind): AuditScope {
  const [resourceType = ''] = kind.split('.');
  return SHARED_RESOURCES.includes(resourceType) ? 'team' : 'admin';
}

export function readsAdminScope({ permissions }: Principal): boolean {
  return permissions.has('audit.admin');
}

/** A condition on rows of the outbox: their scope is `team`. */
export function hasTeamScope(): RawBuilder<boolean> {
  return sql<boolean>`split_part(kind, '.', 1) = any (${SHARED_RESOURCES})`;
}
