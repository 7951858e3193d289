import * as rest from '@torpor/protocol/rest';
import type { Connection } from './http/connection.ts';

/** What teams have and may have. */
export class Quotas {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Those of the own team; of another one only for who operates the platform. */
  get(teamId?: string, signal?: AbortSignal): Promise<rest.QuotaList> {
    const path = teamId === undefined ? '/v1/quotas' : pathOf(teamId);
    return this.#connection.json('GET', path, rest.quotaListSchema, { signal });
  }

  /**
   * Changes what a team may have: a number, null for no limit, or `default` for that of the
   * platform. Only for who operates the platform.
   */
  set(teamId: string, changes: rest.SetQuotas, signal?: AbortSignal): Promise<rest.QuotaList> {
    const options = { json: changes, signal };
    return this.#connection.json('PATCH', pathOf(teamId), rest.quotaListSchema, options);
  }
}

function pathOf(teamId: string): string {
  return `/v1/teams/${encodeURIComponent(teamId)}/quotas`;
}
