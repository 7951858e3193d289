import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol/basics';
import * as rest from '@torpor/protocol/rest';
import type { z } from 'zod';
import type { Connection } from './http/connection.ts';
import { withSdkNames } from './http/field-names.ts';

export interface LoginOptions {
  readonly email: string;
  readonly password: string;
  readonly signal?: AbortSignal | undefined;
}

export interface SignUpOptions extends LoginOptions {
  readonly name: string;
  /** The token of an invitation: the part of its link after the `#`. */
  readonly invitation?: string | undefined;
}

/** A session, with the token for `new Torpor({ sessionToken })`. */
export interface LoggedIn {
  readonly user: rest.User;
  readonly token: string;
  readonly teamId: string | undefined;
  readonly expiresAt: Date;
}

/** For the user of a program: what to open, and what to enter there. */
export interface DeviceLogin {
  /** The page of the server. */
  readonly url: string;
  /** To be entered, and compared. */
  readonly userCode: string;
  readonly expiresAt: Date;
  /** The session, once the user has approved. Throws `forbidden` if the user declines, `not_found` when the code expires. */
  session(signal?: AbortSignal): Promise<LoggedIn>;
}

const LONGEST_POLL_INTERVAL_MS = 30_000;
/** While these last, the login may still succeed. */
const PASSING_ERRORS: ReadonlySet<string> = new Set([
  'rate_limited',
  'host_unavailable',
  'database_unavailable',
  'timeout',
]);

/** What the API says of a login that is waiting, or the session. */
const devicePollSchema = rest.startedSessionSchema
  .partial()
  .extend(rest.devicePendingSchema.partial().shape);

/** Who uses this client: a user's account and sessions, or an API key. */
export class Account {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Begins a session. Needs no credentials. */
  login({ email, password, signal }: LoginOptions): Promise<LoggedIn> {
    const body: z.input<typeof rest.loginSchema> = { email, password, mode: 'token' };
    return this.#start('/v1/auth/login', body, signal);
  }

  /** How users can log in. Needs no credentials. */
  loginOptions(signal?: AbortSignal): Promise<rest.LoginOptions> {
    return this.#connection.json('GET', '/v1/auth/providers', rest.loginOptionsSchema, { signal });
  }

  /** Begins a session that its user approves in a browser, on whichever machine. Needs no credentials. */
  async startDeviceLogin(signal?: AbortSignal): Promise<DeviceLogin> {
    const options = { headers: nameOfMachine(), signal };
    const device = await this.#connection.json(
      'POST',
      '/v1/auth/device',
      rest.deviceLoginSchema,
      options,
    );
    return {
      url: device.verification_uri,
      userCode: device.user_code,
      expiresAt: new Date(Date.now() + device.expires_in * 1000),
      session: (waiting) => this.#awaitApproval(device, waiting),
    };
  }

  /** Makes an account, and begins a session. Needs no credentials. */
  signUp({ email, password, name, invitation, signal }: SignUpOptions): Promise<LoggedIn> {
    const body: z.input<typeof rest.signUpSchema> = {
      email,
      password,
      name,
      invitation,
      mode: 'token',
    };
    return this.#start('/v1/auth/signup', body, signal);
  }

  /** Sets a password with the token of a link, which works once. Needs no credentials. */
  async setPassword(token: string, newPassword: string, signal?: AbortSignal): Promise<void> {
    const json: z.input<typeof rest.setPasswordSchema> = { token, new_password: newPassword };
    await withSdkNames(this.#connection.empty('POST', '/v1/auth/password', { json, signal }));
  }

  /**
   * Sends a link that sets a password to the address, if an account has it; it is not said
   * whether one does. Needs no credentials. Throws `not_implemented` if the server sends no mail.
   */
  async requestPasswordReset(email: string, signal?: AbortSignal): Promise<void> {
    const json: z.input<typeof rest.requestResetSchema> = { email };
    await withSdkNames(this.#connection.empty('POST', '/v1/auth/password-reset', { json, signal }));
  }

  /** Who this client is, in which team it acts, and what it may do. */
  whoami(signal?: AbortSignal): Promise<rest.Caller> {
    return this.#connection.json('GET', '/v1/me', rest.callerSchema, { signal });
  }

  /** Ends the session of this client. */
  async logout(signal?: AbortSignal): Promise<void> {
    await this.#connection.empty('POST', '/v1/auth/logout', { signal });
  }

  /** Newest first. */
  sessions(signal?: AbortSignal): Promise<rest.Session[]> {
    return this.#connection.json('GET', '/v1/auth/sessions', rest.sessionListSchema, { signal });
  }

  /** Ends another session of the user. */
  async revokeSession(id: string, signal?: AbortSignal): Promise<void> {
    const path = `/v1/auth/sessions/${encodeURIComponent(id)}`;
    await this.#connection.empty('DELETE', path, { signal });
  }

  /** Makes the team that in which the session acts. */
  async switchTeam(teamId: string, signal?: AbortSignal): Promise<void> {
    const json: z.input<typeof rest.switchTeamSchema> = { team_id: teamId };
    await this.#connection.empty('POST', '/v1/auth/switch-team', { json, signal });
  }

  /** The logins of other services that are this user's, oldest first. */
  identities(signal?: AbortSignal): Promise<rest.Identity[]> {
    return this.#connection.json('GET', '/v1/me/identities', rest.identityListSchema, { signal });
  }

  /** Throws `conflict` if the user could not log in any more. */
  async unlinkIdentity(id: string, signal?: AbortSignal): Promise<void> {
    const path = `/v1/me/identities/${encodeURIComponent(id)}`;
    await this.#connection.empty('DELETE', path, { signal });
  }

  async rename(name: string, signal?: AbortSignal): Promise<rest.User> {
    const json: z.input<typeof rest.updateMeSchema> = { name };
    const options = { json, signal };
    return withSdkNames(this.#connection.json('PATCH', '/v1/me', rest.userSchema, options));
  }

  /** Ends all other sessions of the user. `current`: undefined if the account has no password. */
  async changePassword(
    current: string | undefined,
    next: string,
    signal?: AbortSignal,
  ): Promise<void> {
    const json: z.input<typeof rest.changePasswordSchema> = {
      current_password: current,
      new_password: next,
    };
    await withSdkNames(this.#connection.empty('POST', '/v1/me/password', { json, signal }));
  }

  /** Deletes the account. `email`: its address, as a confirmation. */
  async delete(email: string, signal?: AbortSignal): Promise<void> {
    const json: z.input<typeof rest.deleteMeSchema> = { confirmation: email };
    await this.#connection.empty('DELETE', '/v1/me', { json, signal });
  }

  async #awaitApproval(
    { device_code, interval }: rest.DeviceLogin,
    signal: AbortSignal | undefined,
  ): Promise<LoggedIn> {
    let intervalMs = interval * 1000;
    for (;;) {
      await delay(intervalMs, undefined, { signal });
      try {
        const options = { json: { device_code }, signal };
        const path = '/v1/auth/device/token';
        const answer = await this.#connection.json('POST', path, devicePollSchema, options);
        if (answer.status === undefined) {
          return loggedIn(rest.startedSessionSchema.strip().parse(answer));
        }
        intervalMs = interval * 1000;
      } catch (reason) {
        if (!PASSING_ERRORS.has(TorporError.from(reason).code) || signal?.aborted) throw reason;
        intervalMs = Math.min(intervalMs * 2, LONGEST_POLL_INTERVAL_MS);
      }
    }
  }

  async #start(path: string, json: object, signal: AbortSignal | undefined): Promise<LoggedIn> {
    return loggedIn(
      await withSdkNames(
        this.#connection.json('POST', path, rest.startedSessionSchema, {
          json,
          headers: nameOfMachine(),
          signal,
        }),
      ),
    );
  }
}

/** The user sees it in the list of sessions, and tells by it whether a login that waits is the own one. */
function nameOfMachine() {
  return { 'user-agent': `Torpor on ${hostname()}` };
}

function loggedIn({ user, token = '', team_id, expires_at }: rest.StartedSession): LoggedIn {
  return { user, token, teamId: team_id, expiresAt: new Date(expires_at) };
}
