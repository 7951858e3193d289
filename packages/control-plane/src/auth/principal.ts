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
  /** The user from whom its permissions come: that of the session, or who made the key; undefined for a key that no user made. */
  readonly onBehalfOf?: string | undefined;
  /** Of a request with a session. */
  readonly user?: { readonly id: string; readonly sessionId: string };
}

/** The team of a user who is in none, or in none that the request names: nothing belongs to it. */
export const NO_TEAM = '';

/** Throws `forbidden`. */
export function requirePermission(principal: Principal, permission: Permission): void {
  if (principal.permissions.has(permission)) return;
  if (principal.teamId === NO_TEAM) throw inNoTeam();
  throw new TorporError(
    'forbidden',
    `This needs the permission ${permission} (${PERMISSIONS[permission]}), which the caller does not have.`,
    {
      remedy: remedyFor(principal, permission),
    },
  );
}

function remedyFor({ user }: Principal, permission: Permission): string {
  if (user === undefined) return 'Use an API key that has it among its scopes.';
  return permission === 'platform'
    ? 'Ask an operator of the platform to do it.'
    : 'Ask an admin of the team to do it, or for another role.';
}

/** The user of a session. Throws `forbidden` for an API key. */
export function requireUser({ user }: Principal): NonNullable<Principal['user']> {
  if (user !== undefined) return user;
  throw new TorporError('forbidden', 'This needs a user who is logged in, not an API key.', {
    remedy: 'Log in, and use the session.',
  });
}

function inNoTeam(): TorporError {
  return new TorporError('forbidden', 'You are in no team, or no longer in that of the session.', {
    remedy: 'Switch to a team that you are in, make one, or accept an invitation.',
  });
}
