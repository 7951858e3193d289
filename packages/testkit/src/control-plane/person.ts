import type { rest } from '@torpor/protocol';

/** The password of everyone. */
export const PASSWORD = 'correct horse battery staple';

export interface Server {
  readonly url: string;
  /** With the permission `platform`. */
  readonly apiKey: string;
}

/** A user who is logged in. */
export class Person {
  readonly server: Server;
  readonly id: string;
  readonly email: string;
  readonly token: string;

  constructor(server: Server, user: rest.User, token: string) {
    this.server = server;
    this.id = user.id;
    this.email = user.email;
    this.token = token;
  }

  /** A request with the session, as a program sends it. */
  call(
    method: string,
    path: string,
    body?: object,
    headers: Record<string, string> = {},
  ): Promise<Response> {
    return request(this.server, method, path, body, {
      authorization: `Bearer ${this.token}`,
      ...headers,
    });
  }

  async json<T>(method: string, path: string, body?: object): Promise<T> {
    const response = await this.call(method, path, body);
    if (!response.ok) throw new Error(`${method} ${path}: ${await response.text()}`);
    return (await response.json()) as T;
  }
}

/** A request without credentials. */
export function request(
  { url }: Server,
  method: string,
  path: string,
  body?: object,
  headers: Record<string, string> = {},
): Promise<Response> {
  return fetch(`${url}${path}`, {
    method,
    redirect: 'manual',
    headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
}

export async function logIn(server: Server, email: string, password = PASSWORD): Promise<Person> {
  const response = await request(server, 'POST', '/v1/auth/login', {
    email,
    password,
    mode: 'token',
  });
  if (!response.ok) throw new Error(`login of ${email}: ${await response.text()}`);
  const { user, token = '' } = (await response.json()) as rest.StartedSession;
  return new Person(server, user, token);
}

/** A user whom the operator makes, in the first team or a team of its own. */
export async function newUser(server: Server, email: string, isAdmin = false): Promise<Person> {
  const key = { 'x-api-key': server.apiKey };
  const made = await request(server, 'POST', '/v1/users', { email, is_admin: isAdmin }, key);
  if (!made.ok) throw new Error(`user ${email}: ${await made.text()}`);
  const token = tokenOf((await made.json()) as rest.CreatedUser);
  const set = await request(server, 'POST', '/v1/auth/password', { token, new_password: PASSWORD });
  if (!set.ok) throw new Error(`password of ${email}: ${await set.text()}`);
  return logIn(server, email);
}

/** A new user whom an admin of the team invites. */
export async function invited(
  admin: Person,
  teamId: string,
  role: 'admin' | 'member',
  email: string,
): Promise<Person> {
  const invitation = await admin.json<rest.CreatedInvitation>(
    'POST',
    `/v1/teams/${teamId}/invitations`,
    { role },
  );
  const response = await request(admin.server, 'POST', '/v1/auth/signup', {
    email,
    name: email,
    password: PASSWORD,
    invitation: tokenOf(invitation),
    mode: 'token',
  });
  if (!response.ok) throw new Error(`sign-up of ${email}: ${await response.text()}`);
  const { user, token = '' } = (await response.json()) as rest.StartedSession;
  return new Person(admin.server, user, token);
}

/** The token in a one-time link. */
export function tokenOf({ link }: { readonly link: string }): string {
  return new URL(link).hash.slice(1);
}
