/**
 * What a caller of the API may do, each with what it covers. The scopes of an API key are
 * permissions; a user's follow from the user's role in the team.
 */
export const PERMISSIONS = {
  'sandboxes.read': 'list sandboxes, look at them, and read their consoles',
  'sandboxes.write': 'create, pause, resume, fork and destroy sandboxes',
  'sandboxes.exec': 'run programs in sandboxes, and read and write their files',
  'snapshots.read': 'list snapshots and images',
  'snapshots.write': 'create and delete snapshots',
  'team.read': 'look at the team, its members and invitations',
  'team.write': 'rename the team, and manage its members and invitations',
  'team.delete': 'delete the team, and give it another owner',
  'keys.read': 'list the API keys of the team',
  'keys.write': 'create and revoke API keys of the team',
  'events.read': 'follow the events of the team',
  'usage.read': 'read what the team has used',
  'webhooks.read': 'list webhooks of the team and what was sent to them',
  'webhooks.write': 'create, change and delete webhooks of the team',
  'audit.read': 'read the audit log of the team',
  'audit.admin':
    'read what the audit log and the events have for admins: of keys, members, logins, settings',
  'hosts.read': 'list the hosts of the team; with `platform` also those of the platform',
  'hosts.write':
    'add, drain and delete hosts of the team; with `platform` also those of the platform',
  platform: 'operate the platform: what belongs to its hosts and to no team',
} as const;

export type Permission = keyof typeof PERMISSIONS;

export const PERMISSION_NAMES = Object.keys(PERMISSIONS) as [Permission, ...Permission[]];

export function isPermission(value: string): value is Permission {
  return Object.hasOwn(PERMISSIONS, value);
}

/** What every member of a team may do, and an API key if its creator names no scopes. */
export const MEMBER_PERMISSIONS: readonly Permission[] = [
  'sandboxes.read',
  'sandboxes.write',
  'sandboxes.exec',
  'snapshots.read',
  'snapshots.write',
  'events.read',
  'usage.read',
];
