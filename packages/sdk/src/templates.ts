import * as rest from '@torpor/protocol/rest';
import type { Connection } from './http/connection.ts';

export interface ListTemplatesOptions {
  /** `base`: images; `snapshot`: snapshots of the team and of the platform. The default is both. */
  readonly type?: rest.TemplateType | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * What sandboxes can be created from: snapshots of the team, snapshots of the platform, which every
 * team can use, and images. Pass the name of one as `template` to create a sandbox.
 */
export class Templates {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  list(options: ListTemplatesOptions = {}): Promise<rest.Template[]> {
    return Array.fromAsync(
      this.#connection.pages('/v1/templates', rest.templateListSchema, {
        query: { type: options.type },
        signal: options.signal,
      }),
    );
  }

  get(name: string, signal?: AbortSignal): Promise<rest.Template> {
    return this.#connection.json('GET', path(name), rest.templateSchema, { signal });
  }

  /** Deletes a snapshot. Sandboxes that were made from it are not affected. */
  async delete(name: string, signal?: AbortSignal): Promise<void> {
    await this.#connection.empty('DELETE', path(name), { signal });
  }
}

function path(name: string): string {
  return `/v1/templates/${encodeURIComponent(name)}`;
}
