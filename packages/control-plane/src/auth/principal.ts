import { PERMISSIONS, type Permission, TorporError } from '@torpor/protocol';
import type { ActorType } from '../database/schema.ts';

/** Who asked for an operation. `system`: Torpor itself. */
export interface Actor {
  readonly type: ActorType;
  readonly id: string | null;
  /** As it is called now; kept, because it can be deleted. */
  readonly name: string | null;
}

export const SYSTEM: Actor = { type: 'system', id: null, name: null };

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
