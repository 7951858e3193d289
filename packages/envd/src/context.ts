import { isAbsolute, join, resolve } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import { USER_HEADER } from '@torpor/protocol';
import { AccessToken } from './access-token.ts';
import { type User, UserDatabase } from './users.ts';

export interface EnvdContextOptions {
  /** Account of requests without one. Default `root`; `/init` changes it. */
  readonly defaultUser?: string;
  /** Working directory of commands without one, and base of relative paths. Default: the user's home. */
  readonly defaultWorkdir?: string;
  readonly accessToken?: string;
  readonly users?: UserDatabase;
}

/**
 * State shared by the services: the access token, the accounts, and the settings of `/init`.
 * Changed only by `/init`.
 */
export class EnvdContext {
  readonly accessToken: AccessToken;
  readonly users: UserDatabase;
  /** Variables that every process gets; those of the request override them. */
  envVars: Readonly<Record<string, string>> = {};
  defaultUser: string;
  defaultWorkdir: string | undefined;

  constructor(options: EnvdContextOptions = {}) {
    this.accessToken = new AccessToken(options.accessToken);
    this.users = options.users ?? new UserDatabase();
    this.defaultUser = options.defaultUser ?? 'root';
    this.defaultWorkdir = options.defaultWorkdir;
  }

  /**
   * The account with this name; of the default user if there is none. Throws
   * ConnectError `unauthenticated` "invalid username: 'x'".
   */
  resolveUser(name?: string): User {
    return this.users.resolve(name === undefined || name === '' ? this.defaultUser : name);
  }

  /** Resolves the default user now, so that it is still known if /etc/passwd is damaged later. */
  rememberDefaultUser(): void {
    try {
      this.resolveUser();
    } catch {
      // No program was requested yet; the request of one returns the error of the missing account.
    }
  }

  /**
   * The user of a call: the one in the header `Torpor-User` ({@link
   * UserDatabase.resolveIdentity}); else the account that E2B's clients send in `Authorization:
   * Basic base64("user:")`; else the default user.
   */
  userOfCall(headers: Headers): User {
    const identity = headers.get(USER_HEADER);
    if (identity !== null) return this.users.resolveIdentity(identity);
    return this.resolveUser(basicUserName(headers.get('authorization')));
  }

  /**
   * Resolves a path of a client to an absolute one: an empty one is the default working
   * directory, `~` and relative ones begin at the user's home. Throws ConnectError
   * `invalid_argument` for a NUL byte and for another user's `~name`.
   */
  resolvePath(path: string, user: User): string {
    if (path.includes('\0')) {
      throw new ConnectError('a path cannot contain a NUL byte', Code.InvalidArgument);
    }
    const meant = path === '' ? (this.defaultWorkdir ?? '') : path;
    if (meant === '~' || meant.startsWith('~/')) {
      return join(user.home, meant.slice(1));
    }
    if (meant.startsWith('~')) {
      throw new ConnectError(
        `cannot expand the home directory of another user in '${path}'`,
        Code.InvalidArgument,
      );
    }
    return isAbsolute(meant) ? resolve(meant) : resolve(user.home, meant);
  }
}

/** The user name of a Basic `Authorization` header; undefined for any other. */
export function basicUserName(authorization: string | null | undefined): string | undefined {
  const encoded = /^basic +([A-Za-z0-9+/=_-]+) *$/i.exec(authorization ?? '')?.[1];
  if (encoded === undefined) return undefined;
  const decoded = Buffer.from(encoded, 'base64').toString('utf8');
  const name = decoded.split(':', 1)[0];
  return name === '' ? undefined : name;
}
