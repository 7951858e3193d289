import { MEMBER_PERMISSIONS, type Permission } from '@torpor/protocol';
import type { TeamRole } from '../database/schema.ts';

/** The team that owns what belongs to the platform. Its members are the platform's admins. */
export const PLATFORM_TEAM_ID = 'tm00000000000000000000';

const MEMBER: readonly Permission[] = [...MEMBER_PERMISSIONS, 'team.read', 'audit.read'];

const ADMIN: readonly Permission[] = [
  ...MEMBER,
  'team.write',
  'keys.read',
  'keys.write',
  'webhooks.read',
  'webhooks.write',
  'audit.admin',
  'hosts.read',
  'hosts.write',
];

const ROLE_PERMISSIONS: Readonly<Record<TeamRole, readonly Permission[]>> = {
  member: MEMBER,
  admin: ADMIN,
  owner: [...ADMIN, 'team.delete'],
};

/** The role of a user in a team: the operators are admins of that of the platform. */
export function roleIn(
  teamId: string,
  user: {
    /** By the row of the team's member. */
    readonly member: TeamRole | undefined;
    readonly isAdmin: boolean;
  },
): TeamRole | undefined {
  if (teamId === PLATFORM_TEAM_ID) return user.isAdmin ? 'admin' : undefined;
  return user.member;
}

/** What a user may do in a team. */
export function permissionsOf({
  role,
  isAdmin,
}: {
  /** Undefined if the user is not in the team. */
  readonly role: TeamRole | undefined;
  readonly isAdmin: boolean;
}): ReadonlySet<Permission> {
  return new Set([
    ...(role === undefined ? [] : ROLE_PERMISSIONS[role]),
    ...(isAdmin ? (['platform'] as const) : []),
  ]);
}
