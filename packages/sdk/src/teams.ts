import * as rest from '@torpor/protocol/rest';
import type { z } from 'zod';
import type { Connection } from './http/connection.ts';
import { withSdkNames } from './http/field-names.ts';

export interface InviteOptions {
  /** The default is `member`. */
  readonly role?: 'admin' | 'member' | undefined;
  /** The only account that may accept it. The default is any. */
  readonly email?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Teams, their members and invitations. */
export class Teams {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Those of the user, by name; that of an API key. */
  list(signal?: AbortSignal): Promise<rest.Team[]> {
    return this.#connection.json('GET', '/v1/teams', rest.teamListSchema, { signal });
  }

  /** Makes a team that the user owns. */
  create(name: string, signal?: AbortSignal): Promise<rest.Team> {
    const json: z.input<typeof rest.createTeamSchema> = { name };
    const options = { json, signal };
    return withSdkNames(this.#connection.json('POST', '/v1/teams', rest.teamSchema, options));
  }

  get(teamId: string, signal?: AbortSignal): Promise<rest.Team> {
    return this.#connection.json('GET', path(teamId), rest.teamSchema, { signal });
  }

  rename(teamId: string, name: string, signal?: AbortSignal): Promise<rest.Team> {
    const json: z.input<typeof rest.updateTeamSchema> = { name };
    const options = { json, signal };
    return withSdkNames(this.#connection.json('PATCH', path(teamId), rest.teamSchema, options));
  }

  /** Deletes a team that has no sandboxes, snapshots or hosts. */
  async delete(teamId: string, signal?: AbortSignal): Promise<void> {
    await this.#connection.empty('DELETE', path(teamId), { signal });
  }

  /** In the order in which they joined. */
  members(teamId: string, signal?: AbortSignal): Promise<rest.Member[]> {
    return this.#connection.json('GET', path(teamId, 'members'), rest.memberListSchema, {
      signal,
    });
  }

  /** `owner` makes the previous owner an admin. */
  async setRole(
    teamId: string,
    userId: string,
    role: rest.Member['role'],
    signal?: AbortSignal,
  ): Promise<void> {
    const json: z.input<typeof rest.updateMemberSchema> = { role };
    await this.#connection.empty('PATCH', path(teamId, 'members', userId), { json, signal });
  }

  /** The member loses access at once, with the API keys, invitations and tokens of hosts that the member made. Webhooks of the member are disabled. */
  async removeMember(teamId: string, userId: string, signal?: AbortSignal): Promise<void> {
    await this.#connection.empty('DELETE', path(teamId, 'members', userId), { signal });
  }

  async leave(teamId: string, signal?: AbortSignal): Promise<void> {
    await this.#connection.empty('POST', path(teamId, 'leave'), { signal });
  }

  /** The result has the link, which cannot be retrieved later. */
  invite(teamId: string, options: InviteOptions = {}): Promise<rest.CreatedInvitation> {
    const { role, email, signal } = options;
    const json: z.input<typeof rest.createInvitationSchema> = { role, email };
    return withSdkNames(
      this.#connection.json('POST', path(teamId, 'invitations'), rest.createdInvitationSchema, {
        json,
        signal,
      }),
    );
  }

  /** Those that can still be accepted, newest first. */
  invitations(teamId: string, signal?: AbortSignal): Promise<rest.Invitation[]> {
    const schema = rest.invitationListSchema;
    return this.#connection.json('GET', path(teamId, 'invitations'), schema, { signal });
  }

  async revokeInvitation(teamId: string, id: string, signal?: AbortSignal): Promise<void> {
    await this.#connection.empty('DELETE', path(teamId, 'invitations', id), { signal });
  }

  /** What an invitation is for. `token`: the part of its link after the `#`. Needs no credentials. */
  previewInvitation(token: string, signal?: AbortSignal): Promise<rest.InvitationPreview> {
    const json: z.input<typeof rest.invitationTokenSchema> = { token };
    const schema = rest.invitationPreviewSchema;
    return this.#connection.json('POST', '/v1/invitations/preview', schema, { json, signal });
  }

  /** The user joins the team of the invitation, whose id is returned. */
  async acceptInvitation(token: string, signal?: AbortSignal): Promise<string> {
    const json: z.input<typeof rest.invitationTokenSchema> = { token };
    const schema = rest.switchTeamSchema;
    const options = { json, signal };
    const joined = await this.#connection.json('POST', '/v1/invitations/accept', schema, options);
    return joined.team_id;
  }
}

function path(teamId: string, ...rest: readonly string[]): string {
  return `/v1/teams/${[teamId, ...rest].map(encodeURIComponent).join('/')}`;
}
