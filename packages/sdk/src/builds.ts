import * as rest from '@torpor/protocol/rest';
import type { Connection } from './http/connection.ts';

/** The builds that hold the state of paused sandboxes and snapshots. For the operator of the host. */
export class Builds {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Reads every build back and checks it. A damaged one has a `fault`. */
  async verify(signal?: AbortSignal): Promise<rest.BuildReport[]> {
    const { builds } = await this.#connection.json(
      'GET',
      '/v1/builds',
      rest.buildReportListSchema,
      {
        query: { verify: 'true' },
        signal,
      },
    );
    return builds;
  }

  /** Removes the builds that no sandbox or snapshot needs. */
  collect(signal?: AbortSignal): Promise<rest.CollectedBuilds> {
    return this.#connection.json('POST', '/v1/builds/collect', rest.collectedBuildsSchema, {
      signal,
    });
  }
}
