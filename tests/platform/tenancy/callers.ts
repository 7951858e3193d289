/** Who calls the API, and what each is to the first team. */
import { newApiKey, PERMISSION_NAMES, type Permission } from '@torpor/protocol';
import { invited, logIn, newUser, type Person } from '@torpor/testkit/control-plane';
import { PLATFORM_TEAM, teamOf, type World } from './world.ts';

export type Role = 'member' | 'admin' | 'owner';

export interface Caller {
  readonly name: string;
  /** Without credentials that are valid nothing else matters. */
  readonly kind: 'invalid' | 'key' | 'user';
  readonly headers: Readonly<Record<string, string>>;
  /** In its own team; undefined if it is in none. */
  readonly role?: Role | undefined;
  /** Whether its own team is the first one. */
  readonly inTeam: boolean;
  readonly isOperator: boolean;
  readonly inPlatformTeam?: boolean;
  readonly person?: Person | undefined;
}

const MEMBER_SCOPES: readonly Permission[] = [
  'sandboxes.read',
  'sandboxes.write',
  'sandboxes.exec',
  'snapshots.read',
  'snapshots.write',
  'events.read',
  'usage.read',
  'team.read',
  'audit.read',
];

const bearer = ({ token }: Pick<Person, 'token'>) => ({ authorization: `Bearer ${token}` });
const apiKey = (key: string) => ({ 'x-api-key': key });

async function invalidCallers(world: World): Promise<Caller[]> {
  const { server, team, owner, fleet } = world;
  const person = async (name: string) => invited(owner, team, 'admin', `first-${name}@example.com`);
  const expired = await person('expired');
  await fleet.database.query('update sessions set expires_at = now() where user_id = $1', [
    expired.id,
  ]);
  const loggedOut = await logIn(server, owner.email);
  await loggedOut.call('POST', '/v1/auth/logout');
  const disabled = await person('disabled');
  await world.member.call('PATCH', `/users/${disabled.id}`, { status: 'disabled' });
  const deleted = await person('deleted');
  await deleted.call('DELETE', '/v1/me', { confirmation: deleted.email });
  const { id, key: revoked } = await owner.json<{ id: string; key: string }>(
    'POST',
    '/v1/api-keys',
    { name: 'revoked' },
  );
  await owner.call('DELETE', `/v1/api-keys/${id}`);
  return Object.entries({
    nobody: {},
    'a key that is none': apiKey(newApiKey()),
    'an expired key': apiKey(await world.key(team, PERMISSION_NAMES, '2020-01-01')),
    'a revoked key': apiKey(revoked),
    'a session that is none': bearer({ token: `tps_${'A'.repeat(43)}` }),
    'an expired session': bearer(expired),
    'a session that was logged out': bearer(loggedOut),
    'a disabled user': bearer(disabled),
    'a deleted user': bearer(deleted),
  }).map(([name, headers]) => ({
    name,
    headers,
    kind: 'invalid',
    inTeam: false,
    isOperator: false,
  }));
}

export async function makeCallers(world: World): Promise<Caller[]> {
  const { server, team, owner, admin, plain } = world;
  const user = (name: string, person: Person, about: Partial<Caller>): Caller => ({
    name,
    kind: 'user',
    headers: bearer(person),
    inTeam: false,
    isOperator: false,
    person,
    ...about,
  });
  const key = (name: string, secret: string, about: Partial<Caller>): Caller => ({
    name,
    kind: 'key',
    headers: apiKey(secret),
    inTeam: false,
    isOperator: false,
    ...about,
  });
  const other = await newUser(server, 'other-owner@example.com');
  const otherTeam = await teamOf(other);
  const otherAdmin = await invited(other, otherTeam, 'admin', 'other-admin@example.com');
  const otherMember = await invited(other, otherTeam, 'member', 'other-member@example.com');
  const removed = await invited(owner, team, 'admin', 'removed@example.com');
  await owner.call('DELETE', `/v1/teams/${team}/members/${removed.id}`);
  const operator = await newUser(server, 'operator@example.com', true);
  const ofOwner = PERMISSION_NAMES.filter((name) => name !== 'platform');
  return [
    ...(await invalidCallers(world)),
    user('the owner', owner, { role: 'owner', inTeam: true }),
    user('an admin', admin, { role: 'admin', inTeam: true }),
    user('a member', plain, { role: 'member', inTeam: true }),
    key('a key of the owner', await world.key(team, ofOwner), { role: 'owner', inTeam: true }),
    key('a key of a member', await world.key(team, MEMBER_SCOPES), {
      role: 'member',
      inTeam: true,
    }),
    key('the key of the server', server.apiKey, { role: 'owner', inTeam: true, isOperator: true }),
    user('the owner of another team', other, { role: 'owner' }),
    user('an admin of another team', otherAdmin, { role: 'admin' }),
    user('a member of another team', otherMember, { role: 'member' }),
    key('a key of another team', await world.key(otherTeam, ofOwner), { role: 'owner' }),
    user('a user who was removed', removed, {}),
    user('an operator in a team of its own', operator, { role: 'owner', isOperator: true }),
    user('an operator in the team of the platform', operator, {
      role: 'admin',
      isOperator: true,
      inPlatformTeam: true,
      headers: { ...bearer(operator), 'x-team-id': PLATFORM_TEAM },
    }),
  ];
}
