import { PERMISSIONS, type Permission, TorporError } from '@torpor/protocol';
import type { Actor } from '../events/outbox.ts';

/** Who makes a request. Everything that it can see belongs to its team. */
export interface Principal {
  readonly teamId: string;
  /** Recorded with what the request changes. */
  readonly actor: Actor;
  readonly permissions: ReadonlySet<Permission>;
}

/** Throws `forbidden`. */
export function requirePermission({ permissions }: Principal, permission: Permission): void {
  if (permissions.has(permission)) return;
  throw new TorporError(
    'forbidden',
    `This needs the permission ${permission} (${PERMISSIONS[permission]}), which the caller does not have.`,
    { remedy: 'Use an API key that has it among its scopes.' },
  );
}
