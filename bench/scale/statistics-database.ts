import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '@torpor/control-plane/testing';
import { Client } from 'pg';
import { pino } from 'pino';

/** What the statements of a time did, by pg_stat_statements; without those of the benchmark. */
export interface DatabaseLoad {
  readonly statements: number;
  /** Transactions that wrote. */
  readonly writes: number;
  /** Time in the executor and the planner. */
  readonly milliseconds: number;
  /** Blocks that were read, most of them from the server's memory. */
  readonly blocks: number;
}

/** An embedded PostgreSQL that counts its statements. */
export class StatisticsDatabase implements AsyncDisposable {
  readonly client: Client;
  readonly url: string;
  readonly dataDir: string;
  readonly #stack: AsyncDisposableStack;

  private constructor(client: Client, url: string, dataDir: string, stack: AsyncDisposableStack) {
    this.client = client;
    this.url = url;
    this.dataDir = dataDir;
    this.#stack = stack;
  }

  static async start(): Promise<StatisticsDatabase> {
    await using stack = new AsyncDisposableStack();
    const dataDir = await mkdtemp(join(tmpdir(), 'torpor-bench-'));
    stack.defer(() => rm(dataDir, { recursive: true, force: true }));
    const logger = pino({ level: 'silent' });
    const first = await startEmbeddedPostgres({ dataDir, logger });
    await withClient(first.connection, (client) =>
      client.query(`alter system set shared_preload_libraries = 'pg_stat_statements'`),
    );
    await first.close();
    const server = await startEmbeddedPostgres({ dataDir, logger });
    stack.defer(() => server.close());
    const client = new Client(server.connection);
    await client.connect();
    stack.defer(() => client.end());
    await client.query('create extension pg_stat_statements');
    await client.query('set pg_stat_statements.track = none');
    const { host = '', user = '', port = 5432 } = server.connection;
    const url = `postgresql://${String(user)}@/postgres?host=${encodeURIComponent(host)}&port=${port}`;
    return new StatisticsDatabase(client, url, dataDir, stack.move());
  }

  /** Runs `action`, and returns the load until it has ended. */
  async loadDuring(action: () => Promise<unknown>): Promise<DatabaseLoad> {
    await this.client.query('select pg_stat_statements_reset()');
    const before = await this.#writingTransactions();
    await action();
    const writes = (await this.#writingTransactions()) - before;
    const { rows } = await this.client.query(
      `select sum(calls)::float as statements,
         sum(total_exec_time + total_plan_time)::float as milliseconds,
         sum(shared_blks_hit + shared_blks_read)::float as blocks
       from pg_stat_statements`,
    );
    return { ...rows[0], writes };
  }

  async #writingTransactions(): Promise<number> {
    const { rows } = await this.client.query(
      'select pg_snapshot_xmax(pg_current_snapshot())::text as next',
    );
    return Number(rows[0].next);
  }

  /** The statements of the last {@link loadDuring} that took the most time, for a note. */
  async costliest(count: number): Promise<readonly string[]> {
    const { rows } = await this.client.query(
      `select calls, round(total_exec_time::numeric, 1) as ms, shared_blks_hit as blocks,
         left(regexp_replace(query, '\\s+', ' ', 'g'), 160) as query
       from pg_stat_statements order by total_exec_time desc limit $1`,
      [count],
    );
    return rows.map(
      ({ calls, ms, blocks, query }) => `${calls} × ${ms} ms ${blocks} blocks: ${query}`,
    );
  }

  /** How many statements of the last {@link loadDuring} were like this one. */
  async calls(pattern: string): Promise<number> {
    const { rows } = await this.client.query(
      `select coalesce(sum(calls), 0)::integer as calls from pg_stat_statements
       where query like $1`,
      [pattern],
    );
    return rows[0].calls;
  }

  /** Counts rows; `from` is a table, and optionally a condition. */
  async count(from: string): Promise<number> {
    const { rows } = await this.client.query(`select count(*)::integer as n from ${from}`);
    return rows[0].n;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

async function withClient(
  connection: ConstructorParameters<typeof Client>[0],
  action: (client: Client) => Promise<unknown>,
): Promise<void> {
  const client = new Client(connection);
  await client.connect();
  try {
    await action(client);
  } finally {
    await client.end();
  }
}
