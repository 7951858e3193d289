import * as rest from '@torpor/protocol/rest';
import type { z } from 'zod';
import type { Connection } from './http/connection.ts';

export interface CreateHostOptions {
  /** `team`: only for sandboxes of the team. The default is `regular`: of the platform, for every team. */
  readonly type?: rest.Host['type'] | undefined;
  readonly tags?: readonly string[] | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface HostChanges {
  readonly name?: string | undefined;
  /** `true`: no new sandboxes are placed on it. */
  readonly draining?: boolean | undefined;
}

export interface DeleteHostOptions {
  /** Gives up the sandboxes and snapshots that it has. */
  readonly force?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The machines on which sandboxes run. */
export class Hosts {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** The result has the token with which a machine joins, which cannot be retrieved later. */
  create(name: string, options: CreateHostOptions = {}): Promise<rest.CreatedHost> {
    const { type, tags, signal } = options;
    const json: z.input<typeof rest.createHostSchema> = {
      name,
      type,
      tags: tags === undefined ? undefined : [...tags],
    };
    return this.#connection.json('POST', '/v1/hosts', rest.createdHostSchema, { json, signal });
  }

  /** Oldest first. */
  list(signal?: AbortSignal): Promise<rest.Host[]> {
    return this.#connection.json('GET', '/v1/hosts', rest.hostListSchema, { signal });
  }

  get(id: string, signal?: AbortSignal): Promise<rest.Host> {
    return this.#connection.json('GET', path(id), rest.hostSchema, { signal });
  }

  update(id: string, changes: HostChanges, signal?: AbortSignal): Promise<rest.Host> {
    const json = { ...changes };
    return this.#connection.json('PATCH', path(id), rest.hostSchema, { json, signal });
  }

  /** No new sandboxes are placed on it; those that it has stay. */
  drain(id: string, signal?: AbortSignal): Promise<rest.Host> {
    return this.update(id, { draining: true }, signal);
  }

  undrain(id: string, signal?: AbortSignal): Promise<rest.Host> {
    return this.update(id, { draining: false }, signal);
  }

  async addTag(id: string, tag: string, signal?: AbortSignal): Promise<void> {
    await this.#connection.empty('POST', path(id, '/tags'), { json: { tag }, signal });
  }

  async removeTag(id: string, tag: string, signal?: AbortSignal): Promise<void> {
    await this.#connection.empty('DELETE', path(id, `/tags/${encodeURIComponent(tag)}`), {
      signal,
    });
  }

  /** Another token, for a machine that has not joined in time or has lost its key. */
  createToken(id: string, signal?: AbortSignal): Promise<rest.HostToken> {
    return this.#connection.json('POST', path(id, '/token'), rest.hostTokenSchema, { signal });
  }

  /** What would be lost with the host. */
  deletePreview(id: string, signal?: AbortSignal): Promise<rest.HostDeletePreview> {
    return this.#connection.json('GET', path(id, '/delete-preview'), rest.hostDeletePreviewSchema, {
      signal,
    });
  }

  /** Throws `has_active_sandboxes` for a host with sandboxes or snapshots, unless forced. */
  async delete(id: string, { force, signal }: DeleteHostOptions = {}): Promise<void> {
    const query = { force: force === undefined ? undefined : String(force) };
    await this.#connection.empty('DELETE', path(id), { query, signal });
  }
}

function path(id: string, suffix = ''): string {
  return `/v1/hosts/${encodeURIComponent(id)}${suffix}`;
}
