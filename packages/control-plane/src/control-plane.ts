import { mkdir } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Transport } from '@connectrpc/connect';
import type { Logger } from 'pino';
import { AuditLog } from './audit/audit-log.ts';
import { ApiKeyStore } from './auth/api-keys.ts';
import { BuildService } from './builds/service.ts';
import { publishApiFile, withdrawApiFile } from './data-directory/api-file.ts';
import { openDatabase } from './database/database.ts';
import { startEmbeddedPostgres } from './database/embedded/embedded-postgres.ts';
import { GuestFiles } from './guest/files.ts';
import { GuestProcesses } from './guest/processes.ts';
import { Host } from './hosts/host.ts';
import { createApp } from './http/app.ts';
import { type HttpServer, listen } from './http/server.ts';
import { Metrics } from './observability/metrics.ts';
import { SandboxLifecycle } from './sandboxes/lifecycle.ts';
import { Operations } from './sandboxes/operations.ts';
import { Reconciler, type ReconcilerTiming } from './sandboxes/reconciler.ts';
import { SandboxRepository } from './sandboxes/repository.ts';
import { Retention, type RetentionOptions } from './sandboxes/retention.ts';
import { SandboxService } from './sandboxes/service.ts';
import { serveStreams } from './streams/server.ts';
import { ensureLocalCredentials } from './teams/first-team.ts';
import { TemplateRepository } from './templates/repository.ts';
import { TemplateService } from './templates/service.ts';
import { TemplateSweeper } from './templates/sweeper.ts';

export interface ControlPlaneOptions {
  /** Created if missing. Others may traverse it (0711), because the database runs as an account of its own. */
  readonly dataDir: string;
  /** A PostgreSQL to use instead of the embedded one. */
  readonly databaseUrl?: string | undefined;
  /** Address to listen on. */
  readonly host: string;
  /** 0 takes any free port. */
  readonly port: number;
  /** To the HostAgentService of this machine. */
  readonly hostTransport: Transport;
  readonly logger: Logger;
  readonly version: string;
  /** How long the host's agent lets a guest take from its start to answering; two minutes if omitted, as the agent has it. */
  readonly guestTimeoutMs?: number;
  /** How long destroyed sandboxes stay listed; 7 days by default. */
  readonly retention?: Partial<RetentionOptions> | undefined;
  /** How quickly the host's state is followed; for tests. */
  readonly reconcilerTiming?: Partial<ReconcilerTiming>;
}

/** The only host, until there can be more. */
const LOCAL_HOST_ID = 'local';
const DEFAULT_GUEST_TIMEOUT_MS = 120_000;
const CLOSE_GRACE_MS = 10_000;
const OPERATION_GRACE_MS = 20_000;

/** The running control plane. */
export class ControlPlane implements AsyncDisposable {
  /** Base URL of the API. */
  readonly url: string;
  /** The key in `<dataDir>/credentials.json`. */
  readonly apiKey: string;
  readonly #sandboxes: SandboxService;
  /** What takes requests. */
  readonly #front: AsyncDisposableStack;
  /** All, with the front. */
  readonly #resources: AsyncDisposableStack;

  private constructor(
    http: HttpServer,
    apiKey: string,
    sandboxes: SandboxService,
    front: AsyncDisposableStack,
    resources: AsyncDisposableStack,
  ) {
    this.url = http.url;
    this.apiKey = apiKey;
    this.#sandboxes = sandboxes;
    this.#front = front;
    this.#resources = resources;
  }

  /**
   * Starts the database, brings its schema up to date, makes the first team and key,
   * follows the host's sandboxes and serves the API. On failure nothing is left
   * running. Throws `host_setup` or `conflict` with a remedy.
   */
  static async start(options: ControlPlaneOptions): Promise<ControlPlane> {
    const { dataDir, logger, version } = options;
    await using resources = new AsyncDisposableStack();
    await mkdir(dataDir, { recursive: true, mode: 0o711 });

    const connection = await databaseConnection(options, resources);
    const db = await openDatabase(connection, logger);
    resources.defer(() => db.destroy());
    const { apiKey, teamId } = await ensureLocalCredentials(db, dataDir, logger);

    const { hostTransport, guestTimeoutMs = DEFAULT_GUEST_TIMEOUT_MS } = options;
    const host = new Host(LOCAL_HOST_ID, hostTransport, guestTimeoutMs);
    const repository = new SandboxRepository(db);
    const operations = new Operations();
    const audit = new AuditLog(db);
    const metrics = new Metrics(repository);
    resources.defer(() => metrics.close());
    const parts = {
      host,
      sandboxes: repository,
      templates: new TemplateRepository(db),
      operations,
      audit,
      metrics,
      logger,
    };
    const templates = new TemplateService(parts);
    const settled = async () => {
      await Promise.all([operations.settled(), templates.settled()]);
    };
    resources.defer(() =>
      // What takes longer is put right by the reconciler of the next start.
      Promise.race([settled(), delay(OPERATION_GRACE_MS, undefined, { ref: false })]),
    );
    const reconciler = new Reconciler({
      host,
      sandboxes: repository,
      operations,
      audit,
      logger,
      ...(options.reconcilerTiming === undefined ? {} : { timing: options.reconcilerTiming }),
    });
    reconciler.start();
    resources.defer(() => reconciler.stop());

    const sweeper = new TemplateSweeper(parts, options.reconcilerTiming?.listIntervalMs);
    await sweeper.start();
    resources.defer(() => sweeper.stop());

    resources.use(new Retention(parts, options.retention));
    const sandboxes = new SandboxService(parts);
    const lifecycle = new SandboxLifecycle(parts);
    const builds = new BuildService(host, teamId);
    const processes = new GuestProcesses(sandboxes, host.client, metrics);
    const files = new GuestFiles(sandboxes, host.client);
    const apiKeys = new ApiKeyStore(db);
    const app = createApp({
      version,
      logger,
      apiKeys,
      sandboxes,
      lifecycle,
      templates,
      builds,
      processes,
      files,
      metrics,
    });
    const front = resources.use(new AsyncDisposableStack());
    const http = await listen(app, options.host, options.port);
    front.defer(() => http.close(CLOSE_GRACE_MS));
    const streams = serveStreams(http.server, { apiKeys, processes, logger });
    front.defer(() => streams.close());
    await publishApiFile(dataDir, http.url);
    front.defer(() => withdrawApiFile(dataDir));
    logger.info({ url: http.url }, 'The API is served');
    return new ControlPlane(http, apiKey, sandboxes, front, resources.move());
  }

  /**
   * Stops serving, waits for operations that are under way, and stops the embedded
   * database. Sandboxes go on, unless all are to be destroyed; throws for one that
   * cannot be, when all else is done.
   */
  async close(options: { readonly destroyAll?: boolean } = {}): Promise<void> {
    try {
      await this.#front.disposeAsync();
      if (options.destroyAll === true) await this.#sandboxes.destroyAll();
    } finally {
      await this.#resources.disposeAsync();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

async function databaseConnection(options: ControlPlaneOptions, resources: AsyncDisposableStack) {
  if (options.databaseUrl !== undefined) return { connectionString: options.databaseUrl };
  const database = await startEmbeddedPostgres(options);
  resources.defer(() => database.close());
  return database.connection;
}
