/** Several control planes on one database, with one agent. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Transport } from '@connectrpc/connect';
import { ControlPlane, type ControlPlaneOptions } from '@torpor/control-plane';
import { startEmbeddedPostgres } from '@torpor/control-plane/testing';
import type { rest } from '@torpor/protocol';
import { Client, type ClientConfig } from 'pg';
import { FAST_CLAIMS, openTestSite, type TestSite, until } from './harness.ts';
import type { MemoryAgent } from './memory-agent.ts';
import { type DatabaseAddress, SeverableLinks, socketUrl } from './severable.ts';

/** One of several control planes, through its API. */
export interface Member {
  readonly controlPlane: ControlPlane;
  call(method: string, path: string, body?: object): Promise<Response>;
  create(body?: object): Promise<rest.Sandbox>;
  get(id: string): Promise<rest.Sandbox>;
}

export interface SeverableMember extends Member {
  readonly links: SeverableLinks;
}

/** An event that an operation wrote to the outbox; not that of a state to which it led. */
export interface RecordedEvent {
  readonly kind: string;
  readonly resource: string;
  readonly status: string;
  readonly metadata: Readonly<Record<string, string>>;
}

export class Fleet implements AsyncDisposable {
  readonly agent: MemoryAgent;
  readonly database: Client;
  readonly #site: TestSite;
  readonly #address: DatabaseAddress;
  readonly #stack: AsyncDisposableStack;

  private constructor(
    site: TestSite,
    database: Client,
    address: DatabaseAddress,
    stack: AsyncDisposableStack,
  ) {
    this.agent = site.agent;
    this.database = database;
    this.#site = site;
    this.#address = address;
    this.#stack = stack;
  }

  /** On the database that clients connect to in this way, over a socket; on an embedded one if omitted. */
  static async open(external?: ClientConfig): Promise<Fleet> {
    await using stack = new AsyncDisposableStack();
    const site = stack.use(await openTestSite());
    const connection = external ?? (await embeddedDatabase(site, stack));
    const { host = '', user = '', port = 5432 } = connection;
    const database = new Client(connection);
    await database.connect();
    stack.defer(() => database.end());
    const address = { directory: host, user: String(user), port };
    return new Fleet(site, database, address, stack.move());
  }

  /** A control plane without a host of its own, which other machines join. */
  joinAlone(options: Partial<ControlPlaneOptions> = {}): Promise<Member> {
    return this.join({
      hostTransport: undefined,
      agents: { host: '127.0.0.1', port: 0 },
      ...options,
      hostTiming: { followMs: 50, silenceMs: 4_000, silenceCheckMs: 100, ...options.hostTiming },
    });
  }

  log(): string {
    return this.#site.log();
  }

  /** The data directory of its control planes. */
  get dataDir(): string {
    return this.#site.dataDir;
  }

  /** The secret key of its control planes, for one with another data directory. */
  async secretKey(): Promise<string> {
    return (await readFile(join(this.dataDir, 'secret.key'), 'utf8')).trim();
  }

  /** How clients connect to the database. */
  get connection(): ClientConfig {
    const { directory: host, user, port } = this.#address;
    return { host, user, port, database: 'postgres' };
  }

  /** Starts a control plane that runs until the fleet is disposed of. */
  async join(options: Partial<ControlPlaneOptions> = {}): Promise<Member> {
    const databaseUrl = socketUrl(this.#address);
    const controlPlane = await ControlPlane.start({
      ...this.#site.options,
      databaseUrl,
      ...options,
      hostTiming: { ...FAST_CLAIMS, ...options.hostTiming },
    });
    this.#stack.use(controlPlane);
    return member(controlPlane);
  }

  /** Starts a control plane whose connections can be cut. Disposing of it cuts them. */
  async joinSeverable(
    options: Partial<ControlPlaneOptions> = {},
    transport: Transport = this.agent.transport,
  ): Promise<SeverableMember & AsyncDisposable> {
    const links = await SeverableLinks.open(this.#address, transport);
    const controlPlane = await ControlPlane.start({
      ...this.#site.options,
      databaseUrl: links.databaseUrl,
      hostTransport: links.transport,
      ...options,
      hostTiming: { ...FAST_CLAIMS, ...options.hostTiming },
    });
    return {
      ...member(controlPlane),
      links,
      async [Symbol.asyncDispose]() {
        links.sever();
        await controlPlane.close().catch(() => undefined);
        await links[Symbol.asyncDispose]();
      },
    };
  }

  async events(resource?: string): Promise<RecordedEvent[]> {
    const { rows } = await this.database.query(
      `select kind, resource, status, metadata from outbox
       where resource = coalesce($1, resource) and kind <> 'sandbox.state' order by id`,
      [resource ?? null],
    );
    return rows;
  }

  /** The sandboxes whose usage is not that of their state, when all events have been delivered. */
  async miscounted(): Promise<string[]> {
    await until(async () => (await this.count('outbox where delivered_at is null')) === 0);
    const { rows } = await this.database.query(
      `select sandboxes.id, state, usage_intervals.vcpus from sandboxes left join usage_intervals
         on resource_type = 'sandbox' and resource = sandboxes.id and usage_intervals.ended_at is null
       where state in ('running', 'paused', 'error', 'stopped')
         and usage_intervals.vcpus is distinct from
           case when state = 'running' then sandboxes.vcpus
             when state = 'stopped' or state = 'error' and sandboxes.started_at is null then null
             else 0 end`,
    );
    const overlaps = await this.database.query(
      `select a.resource as id, 'overlap' as state from usage_intervals a join usage_intervals b
         on a.resource_type = b.resource_type and a.resource = b.resource and a.team_id = b.team_id
       where a.id < b.id and coalesce(a.ended_at, 'infinity') > b.started_at`,
    );
    return [...rows, ...overlaps.rows].map((row) => JSON.stringify(row));
  }

  /** Counts rows; `from` is a table, and optionally a condition. */
  async count(from: string): Promise<number> {
    const { rows } = await this.database.query(`select count(*)::integer as n from ${from}`);
    return rows[0].n;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

async function embeddedDatabase(
  { options }: TestSite,
  stack: AsyncDisposableStack,
): Promise<ClientConfig> {
  const server = await startEmbeddedPostgres(options);
  stack.defer(() => server.close());
  return server.connection;
}

function member(controlPlane: ControlPlane): Member {
  const call = (method: string, path: string, body?: object) =>
    fetch(`${controlPlane.url}/v1${path}`, {
      method,
      headers: { 'x-api-key': controlPlane.apiKey },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  return {
    controlPlane,
    call,
    async create(body = {}) {
      const response = await call('POST', '/sandboxes', { memory_mb: 128, ...body });
      if (response.status !== 201) throw new Error(`create: ${await response.text()}`);
      return (await response.json()) as rest.Sandbox;
    },
    async get(id) {
      return (await (await call('GET', `/sandboxes/${id}`)).json()) as rest.Sandbox;
    },
  };
}
