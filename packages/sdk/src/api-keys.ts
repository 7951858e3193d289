import * as rest from '@torpor/protocol/rest';
import type { z } from 'zod';
import type { Connection, CreateOptions } from './http/connection.ts';
import { withSdkNames } from './http/field-names.ts';

export interface CreateApiKeyOptions extends CreateOptions {
  /** What the key may do. The default is what every member of a team may do. */
  readonly scopes?: readonly rest.Permission[] | undefined;
  /** From when on it is refused. The default is never. */
  readonly expiresAt?: Date | undefined;
}

/** The API keys of the team. */
export class ApiKeys {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Creates a key. `name` tells it from others in lists and in the audit log. */
  create(name: string, options: CreateApiKeyOptions = {}): Promise<rest.CreatedApiKey> {
    const body: z.input<typeof rest.createApiKeySchema> = {
      name,
      scopes: options.scopes === undefined ? undefined : [...options.scopes],
      expires_at: options.expiresAt?.toISOString(),
    };
    return withSdkNames(
      this.#connection.create('/v1/api-keys', rest.createdApiKeySchema, {
        json: body,
        idempotencyKey: options.idempotencyKey,
        signal: options.signal,
      }),
    );
  }

  /** Newest first; expired ones too. */
  list(signal?: AbortSignal): Promise<rest.ApiKey[]> {
    return Array.fromAsync(
      this.#connection.pages('/v1/api-keys', rest.apiKeyListSchema, { signal }),
    );
  }

  /** From the next request on it is refused. */
  async revoke(id: string, signal?: AbortSignal): Promise<void> {
    await this.#connection.empty('DELETE', `/v1/api-keys/${encodeURIComponent(id)}`, { signal });
  }
}
