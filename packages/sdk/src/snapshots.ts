import * as rest from '@torpor/protocol/rest';
import type { z } from 'zod';
import type { Connection, CreateOptions } from './http/connection.ts';
import { withSdkNames } from './http/field-names.ts';
import { Templates } from './templates.ts';

export interface CreateSnapshotOptions extends CreateOptions {
  /** The default is `template-` and eight hexadecimal digits. */
  readonly name?: string | undefined;
  /** Replace a snapshot of this name. */
  readonly overwrite?: boolean | undefined;
  /** Who runs programs in sandboxes made from it, unless told otherwise. The default is that of the source. */
  readonly defaultUser?: string | undefined;
  /** Environment of sandboxes made from it, under their own. Stored and shown: not for secrets. The default is that of the source. */
  readonly defaultEnv?: Readonly<Record<string, string>> | undefined;
}

/** Makes snapshots; otherwise the same as {@link Templates}. */
export class Snapshots extends Templates {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    super(connection);
    this.#connection = connection;
  }

  /** Saves the current state of a running or paused sandbox under a name. The sandbox is paused afterwards. */
  create(sandboxId: string, options: CreateSnapshotOptions = {}): Promise<rest.Snapshot> {
    const body: z.input<typeof rest.createSnapshotSchema> = {
      sandbox_id: sandboxId,
      name: options.name,
      default_user: options.defaultUser,
      default_env: options.defaultEnv === undefined ? undefined : { ...options.defaultEnv },
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
}
