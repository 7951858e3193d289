import * as rest from '@torpor/protocol/rest';
import type { z } from 'zod';
import type { Connection, CreateOptions } from './http/connection.ts';
import { withSdkNames } from './http/field-names.ts';

export interface CreateSnapshotOptions extends CreateOptions {
  /** The default is `template-` and eight hexadecimal digits. */
  readonly name?: string | undefined;
  /** Replace a snapshot of this name. */
  readonly overwrite?: boolean | undefined;
}

export interface ListSnapshotsOptions {
  /** `base`: images of the platform; `snapshot`: those of the team. The default is both. */
  readonly type?: rest.TemplateType | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Snapshots and images, the templates of sandboxes: pass the name of one as `template` to create a sandbox. */
export class Snapshots {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Saves the current state of a running or paused sandbox under a name. The sandbox is paused afterwards. */
  create(sandboxId: string, options: CreateSnapshotOptions = {}): Promise<rest.Snapshot> {
    const body: z.input<typeof rest.createSnapshotSchema> = {
      sandbox_id: sandboxId,
      name: options.name,
    };
    return withSdkNames(
      this.#connection.create('/v1/snapshots', rest.snapshotSchema, {
        json: body,
        idempotencyKey: options.idempotencyKey,
        query: { overwrite: options.overwrite === true ? 'true' : undefined },
        signal: options.signal,
      }),
    );
  }

  list(options: ListSnapshotsOptions = {}): Promise<rest.Snapshot[]> {
    return Array.fromAsync(
      this.#connection.pages('/v1/snapshots', rest.snapshotListSchema, {
        query: { type: options.type },
        signal: options.signal,
      }),
    );
  }

  get(name: string, signal?: AbortSignal): Promise<rest.Snapshot> {
    return this.#connection.json('GET', path(name), rest.snapshotSchema, { signal });
  }

  /** Deletes a snapshot. Sandboxes that were made from it are not affected. */
  async delete(name: string, signal?: AbortSignal): Promise<void> {
    await this.#connection.empty('DELETE', path(name), { signal });
  }
}

function path(name: string): string {
  return `/v1/snapshots/${encodeURIComponent(name)}`;
}
