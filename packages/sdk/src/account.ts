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

  async #start(path: string, json: object, signal: AbortSignal | undefined): Promise<LoggedIn> {
    const started = await withSdkNames(
      this.#connection.json('POST', path, rest.startedSessionSchema, { json, signal }),
    );
    return {
      user: started.user,
      token: started.token ?? '',
      teamId: started.team_id,
      expiresAt: new Date(started.expires_at),
    };
  }
}
