import * as rest from '@torpor/protocol/rest';
import { Account } from './account.ts';
import { ApiKeys } from './api-keys.ts';
import { AuditLog } from './audit-log.ts';
import { Builds } from './builds.ts';
import { Events } from './events.ts';
import { Hosts } from './hosts.ts';
import { Connection, type ConnectionOptions } from './http/connection.ts';
import { Quotas } from './quotas.ts';
import { Sandboxes } from './sandboxes.ts';
import { Snapshots } from './snapshots.ts';
import { Teams } from './teams.ts';
import { Templates } from './templates.ts';
import { Users } from './users.ts';
import { Webhooks } from './webhooks.ts';

export interface UsageOptions {
  readonly from?: Date | undefined;
  /** The default is now. */
  readonly to?: Date | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The client of one Torpor API.
 *
 * ```ts
 * const torpor = new Torpor();
 * await using sandbox = await torpor.sandboxes.create();
 * const { stdout } = await sandbox.exec('python3', ['-c', 'print(6*7)']);
 * ```
 *
 * A method that fails throws a TorporError with a stable `code`, a `message` that says what
 * happened, and a `remedy` that says what to do. If it is aborted, it throws the reason of the
 * abort; if the stream of an upload fails, the error of that stream.
 */
export class Torpor implements AsyncDisposable {
  readonly sandboxes: Sandboxes;
  readonly templates: Templates;
  readonly snapshots: Snapshots;
  readonly builds: Builds;
  readonly account: Account;
  readonly teams: Teams;
  readonly users: Users;
  readonly apiKeys: ApiKeys;
  readonly auditLog: AuditLog;
  readonly events: Events;
  readonly webhooks: Webhooks;
  readonly hosts: Hosts;
  readonly quotas: Quotas;
  readonly #connection: Connection;

  constructor(options: ConnectionOptions = {}) {
    this.#connection = new Connection(options);
    this.sandboxes = new Sandboxes(this.#connection);
    this.templates = new Templates(this.#connection);
    this.snapshots = new Snapshots(this.#connection);
    this.builds = new Builds(this.#connection);
    this.account = new Account(this.#connection);
    this.teams = new Teams(this.#connection);
    this.users = new Users(this.#connection);
    this.apiKeys = new ApiKeys(this.#connection);
    this.auditLog = new AuditLog(this.#connection);
    this.events = new Events(this.#connection);
    this.webhooks = new Webhooks(this.#connection);
    this.hosts = new Hosts(this.#connection);
    this.quotas = new Quotas(this.#connection);
  }

  get apiUrl(): string {
    return this.#connection.apiUrl.href.replace(/\/$/, '');
  }

  /** Whether the API is available, and the version of the server. Needs no API key. */
  health(signal?: AbortSignal): Promise<rest.Health> {
    return this.#connection.json('GET', '/health', rest.healthSchema, { signal });
  }

  /** What the team has used, by day; of the last 30 days if not told otherwise, and of 92 at most. */
  usage(options: UsageOptions = {}): Promise<rest.Usage> {
    const query = { from: options.from?.toISOString(), to: options.to?.toISOString() };
    const { signal } = options;
    return this.#connection.json('GET', '/v1/usage', rest.usageSchema, { query, signal });
  }

  /** Closes the connections to the API. Sandboxes are not affected. */
  async close(): Promise<void> {
    await this.#connection.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
