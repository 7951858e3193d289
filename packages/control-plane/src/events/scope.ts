import { TorporError } from '@torpor/protocol';
import { type RawBuilder, sql } from 'kysely';
import type { Principal } from '../auth/principal.ts';
import type { AuditScope } from '../database/schema.ts';

/** Kinds of resources that every member of a team works with. What happens to others is for admins. */
const SHARED_RESOURCES = ['sandbox', 'snapshot'];

/** Who may know of an event, or of those that a pattern matches. */
export function scopeOf(kindOrPattern: string): AuditScope {
  const [resourceType = ''] = kindOrPattern.split('.');
  return SHARED_RESOURCES.includes(resourceType) ? 'team' : 'admin';
}

/** Throws `forbidden` if the events that the patterns match are not for the principal. */
export function requireReadable(principal: Principal, patterns: readonly string[]): void {
  const hidden = patterns.find((pattern) => scopeOf(pattern) === 'admin');
  if (hidden === undefined || readsAdminScope(principal)) return;
  throw new TorporError(
    'forbidden',
    `The events ${hidden} are for callers with the permission audit.admin.`,
    { remedy: 'Choose events of sandboxes and snapshots only.' },
  );
}

export function readsAdminScope({ permissions }: Principal): boolean {
  return permissions.has('audit.admin');
}

/** A condition on rows of the outbox: their scope is `team`. */
export function hasTeamScope(): RawBuilder<boolean> {
  return sql<boolean>`split_part(kind, '.', 1) = any (${SHARED_RESOURCES})`;
}
