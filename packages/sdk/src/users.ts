import * as rest from '@torpor/protocol/rest';
import type { z } from 'zod';
import type { Connection } from './http/connection.ts';
import { withSdkNames } from './http/field-names.ts';

export interface CreateUserOptions {
  /** The default is made from the email address. */
  readonly name?: string | undefined;
  /** Whether the user operates the platform. The default is false. */
  readonly isAdmin?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface UserChanges {
  /** A user who is disabled loses all sessions and API keys at once. */
  readonly status?: rest.User['status'] | undefined;
  readonly isAdmin?: boolean | undefined;
}

/** All users of the platform, for its operators. */
export class Users {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** By email address. */
  list(signal?: AbortSignal): Promise<rest.User[]> {
    return this.#connection.json('GET', '/v1/users', rest.userListSchema, { signal });
  }

  /** The result has a link with which the user sets a password, once. */
  create(email: string, options: CreateUserOptions = {}): Promise<rest.CreatedUser> {
    const { name, isAdmin, signal } = options;
    const json: z.input<typeof rest.createUserSchema> = { email, name, is_admin: isAdmin };
    return withSdkNames(
      this.#connection.json('POST', '/v1/users', rest.createdUserSchema, { json, signal }),
    );
  }

  update(id: string, changes: UserChanges, signal?: AbortSignal): Promise<rest.User> {
    const { status, isAdmin } = changes;
    const json: z.input<typeof rest.updateUserSchema> = { status, is_admin: isAdmin };
    return this.#connection.json('PATCH', path(id), rest.userSchema, { json, signal });
  }

  /** A link with which the user sets a new password, once. Earlier ones are not valid any more. */
  createPasswordLink(id: string, signal?: AbortSignal): Promise<rest.OneTimeLink> {
    const schema = rest.oneTimeLinkSchema;
    return this.#connection.json('POST', `${path(id)}/password-link`, schema, { signal });
  }
}

function path(id: string): string {
  return `/v1/users/${encodeURIComponent(id)}`;
}
