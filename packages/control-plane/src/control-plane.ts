import { mkdir } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Transport } from '@connectrpc/connect';
import { type QuotaLimits, TorporError, type Tracer } from '@torpor/protocol';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import {
  type ConfiguredProviders,
  DEFAULT_QUOTAS,
  type ExecAuditLevel,
  SETTINGS,
} from './config/index.ts';
import { apiEntrance, type Context, createContext } from './context.ts';
import { publishApiFile, withdrawApiFile } from './data-directory/api-file.ts';
import { openDatabase } from './database/database.ts';
import { startEmbeddedPostgres } from './database/embedded/embedded-postgres.ts';
import type { Database } from './database/schema.ts';
import { type AgentListenerOptions, Hosting, type HostTiming } from './hosting.ts';
import { forgetControlPlanes } from './hosts/claims.ts';
import { ensureLocalHost } from './hosts/local-host.ts';
import type { WatchTiming } from './hosts/watch.ts';
import { FrontDoor } from './http/front-door.ts';
import { type MailTiming, startMailDispatcher } from './mail/dispatcher.ts';
import { type MailSettings, MailTransport } from './mail/transport.ts';
import { startOperationRecovery } from './operations/recovery.ts';
import { type RetentionOptions, startRetention } from './sandboxes/retention.ts';
import type { SandboxService } from './sandboxes/service.ts';
import { openSecrets } from './secrets/secret-key.ts';
import { ensureLocalCredentials } from './teams/first-team.ts';
import { startTemplateSweeper } from './templates/sweeper.ts';
import { startCredentialExpiry } from './users/expiry.ts';
import type { DispatcherTiming } from './webhooks/dispatcher.ts';

export interface ControlPlaneOptions {
  /** Created if it does not exist. Others may traverse it (0711), because the database runs under its own account. */
  readonly dataDir: string;
  /** A PostgreSQL to use instead of the embedded one. */
  readonly databaseUrl?: string | undefined;
  /** Address to listen on. */
  readonly host: string;
  /** 0 takes any free port. */
  readonly port: number;
  /** To the HostAgentService of this machine; undefined if it is not a host. */
  readonly hostTransport?: Transport | undefined;
  /** Where agents of other machines connect; they cannot if omitted. */
  readonly agents?: AgentListenerOptions | undefined;
  readonly logger: Logger;
  /** Traces are only passed on if omitted. */
  readonly tracer?: Tracer | undefined;
  readonly version: string;
  /** How long the host's agent waits for the first response of a guest that it started; two minutes if omitted, the agent's default. */
  readonly guestTimeoutMs?: number;
  /** How long destroyed sandboxes stay listed, and entries in the audit log. */
  readonly retention?: Partial<RetentionOptions> | undefined;
  /** How soon hosts are noticed and given up, and how long certificates are valid; for tests. */
  readonly hostTiming?: Partial<HostTiming> | undefined;
  /** How quickly the host's state is followed; for tests. */
  readonly reconcilerTiming?: Partial<ReconcilerTiming>;
  /** Encrypts secrets in the database: 32 bytes in base64. That of the data directory if omitted. */
  readonly secretKey?: string | undefined;
  /** How many vCPUs of running sandboxes there may be for each processor of a host; any number if omitted. */
  readonly vcpuOvercommit?: number | undefined;
  /** Discard what another secret key has encrypted in the database, instead of not starting. */
  readonly replaceSecretKey?: boolean | undefined;
  /** Networks besides the public internet that webhooks may call, in CIDR notation; none if omitted. */
  readonly webhookNetworks?: readonly string[];
  /** Where browsers find the server, if it is not the host name of their requests. */
  readonly publicUrl?: string | undefined;
  /** Networks of proxies whose X-Forwarded-For is believed, in CIDR notation; none if omitted. */
  readonly trustedProxies?: readonly string[];
  /** Whether everyone may sign up, and not only those who are invited; false if omitted. */
  readonly signUpOpen?: boolean;
  /** How many teams a user may own, who is no operator; the default is that of the setting. */
  readonly teamsPerUser?: number;
  /** What the audit log has of programs that are started in sandboxes; their names if omitted. */
  readonly auditExec?: ExecAuditLevel | undefined;
  /** Services that users can log in with; need `publicUrl`. None if omitted. */
  readonly providers?: ConfiguredProviders;
  /** Whose verified email addresses may sign up with those even if `signUpOpen` is false. */
  readonly signUpDomains?: readonly string[];
  /** The mail server; needs `publicUrl`, to which mail links. None is sent if omitted. */
  readonly mail?: MailSettings | undefined;
  /** How soon mail is sent, and again; for tests. */
  readonly mailTiming?: Partial<MailTiming> | undefined;
  /** What a team may have that has no limits of its own. */
  readonly quotas?: QuotaLimits;
  /** How soon webhooks are sent, and again; for tests. */
  readonly webhookTiming?: Partial<DispatcherTiming> | undefined;
  /** How long an operation keeps its locks after its control plane has died; for tests. */
  readonly leaseMs?: number | undefined;
}

export interface ReconcilerTiming extends WatchTiming {
  /** How long a destroyed sandbox may still be on the host. */
  readonly destroyGraceMs: number;
  /** How often to look for operations that a dead control plane left. */
  readonly recoveryIntervalMs: number;
}

const CLOSE_GRACE_MS = 10_000;
const OPERATION_GRACE_MS = 20_000;

/** The running control plane. */
export class ControlPlane implements AsyncDisposable {
  /** Base URL of the API. */
  readonly url: string;
  /** The key in `<dataDir>/credentials.json`. */
  readonly apiKey: string;
  /** Where agents connect; undefined if they cannot. */
  readonly agentUrl: string | undefined;
  /** The id of the host of this process; undefined if it has none. */
  readonly hostId: string | undefined;
  readonly #sandboxes: SandboxService;
  /** The part that accepts requests. */
  readonly #front: AsyncDisposableStack;
  /** Everything, `#front` included. */
  readonly #resources: AsyncDisposableStack;

  private constructor(
    served: Pick<ControlPlane, 'url' | 'apiKey' | 'agentUrl' | 'hostId'>,
    sandboxes: SandboxService,
    front: AsyncDisposableStack,
    resources: AsyncDisposableStack,
  ) {
    this.url = served.url;
    this.apiKey = served.apiKey;
    this.agentUrl = served.agentUrl;
    this.hostId = served.hostId;
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
    const { dataDir, logger } = options;
    await using resources = new AsyncDisposableStack();
    await mkdir(dataDir, { recursive: true, mode: 0o711 });
    assertPublicUrl(options);
    const db = await connectDatabase(options, resources);
    const secrets = await openSecrets(db, options);
    const { apiKey, teamId } = await ensureLocalCredentials(db, dataDir, logger);
    const hostId =
      options.hostTransport === undefined ? undefined : await ensureLocalHost(db, dataDir, teamId);
    let hosting: Hosting | undefined;
    const context = createContext({
      ...options,
      db,
      secrets,
      vcpuOvercommit: options.vcpuOvercommit,
      webhookNetworks: options.webhookNetworks ?? [],
      auditExec: options.auditExec ?? SETTINGS.auditExec.defaultValue,
      joinUrl: () => hosting?.agentUrl,
      onHostsChanged: () => hosting?.wake(),
      web: { publicUrl: options.publicUrl, trustedProxies: options.trustedProxies ?? [] },
      signUpOpen: options.signUpOpen ?? false,
      teamsPerUser: options.teamsPerUser ?? SETTINGS.teamsPerUser.defaultValue,
      mail: options.mail,
      providers: options.providers ?? {},
      signUpDomains: options.signUpDomains ?? [],
      quotas: options.quotas ?? DEFAULT_QUOTAS,
    });
    await startWork(context, options, resources);
    startMail(context, options, resources);
    hosting = await Hosting.start(context, { ...options, hostId }, resources);
    const front = resources.use(new AsyncDisposableStack());
    const url = await serve(context, options, front);
    logger.info({ url }, 'API server started');
    const served = { url, apiKey, agentUrl: hosting.agentUrl, hostId };
    return new ControlPlane(served, context.sandboxes, front, resources.move());
  }

  /**
   * Stops serving, waits for operations in progress, and stops the embedded
   * database. Sandboxes keep running, unless all are to be destroyed. If one cannot be,
   * throws after everything else is closed.
   */
  async close(options: { readonly destroyAll?: boolean } = {}): Promise<void> {
    try {
      await this.#front.disposeAsync();
      if (options.destroyAll === true && this.hostId !== undefined) {
        await this.#sandboxes.destroyAll(this.hostId);
      }
    } finally {
      await this.#resources.disposeAsync();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Connects to the database of the options, or starts the embedded one; migrates its schema. */
async function connectDatabase(
  options: ControlPlaneOptions,
  resources: AsyncDisposableStack,
): Promise<Kysely<Database>> {
  const connection = await databaseConnection(options, resources);
  const db = await openDatabase(connection, options.logger);
  resources.defer(() => db.destroy());
  return db;
}

async function databaseConnection(options: ControlPlaneOptions, resources: AsyncDisposableStack) {
  if (options.databaseUrl !== undefined) return { connectionString: options.databaseUrl };
  const database = await startEmbeddedPostgres(options);
  resources.defer(() => database.close());
  return database.connection;
}

/** Starts the background work. */
async function startWork(
  { parts, metrics, locks, delivery, sender, dispatcher, limiter, idempotency }: Context,
  { databaseUrl, reconcilerTiming: timing, retention }: ControlPlaneOptions,
  resources: AsyncDisposableStack,
): Promise<void> {
  const { runner, logger } = parts;
  resources.defer(() => metrics.close());
  // No other process uses the embedded database: every holder of a lock in it has died.
  if (databaseUrl === undefined) {
    await locks.expireAll();
    await idempotency.expireAll();
    await forgetControlPlanes(parts.db);
  }
  resources.use(sender);
  dispatcher.start();
  resources.use(dispatcher);
  delivery.start();
  resources.use(delivery);
  resources.defer(() =>
    // An operation that takes longer is settled by the recovery after the next start.
    Promise.race([locks.idle(), delay(OPERATION_GRACE_MS, undefined, { ref: false })]),
  );
  resources.use(
    startOperationRecovery({ locks, runner, logger, intervalMs: timing?.recoveryIntervalMs }),
  );
  resources.use(startTemplateSweeper(parts, timing?.listIntervalMs));
  resources.use(
    startRetention(
      { ...parts, idempotency },
      {
        keepStoppedMs: SETTINGS.keepStoppedMs.defaultValue,
        keepAuditMs: SETTINGS.keepAuditMs.defaultValue,
        ...retention,
      },
    ),
  );
  resources.use(startCredentialExpiry({ db: parts.db, limiter, logger }));
}

/** Throws `host_setup`. */
function assertPublicUrl({ mail, providers = {}, publicUrl }: ControlPlaneOptions): void {
  const isNeeded = mail !== undefined || Object.keys(providers).length > 0;
  if (!isNeeded || publicUrl !== undefined) return;
  throw new TorporError('host_setup', 'Mail and logins with providers need public_url.');
}

function startMail(
  { parts: { db, logger }, mail: queue, passwordResets }: Context,
  { mail, mailTiming, publicUrl }: ControlPlaneOptions,
  resources: AsyncDisposableStack,
): void {
  if (mail === undefined || publicUrl === undefined) return;
  const transport = new MailTransport(mail);
  const resetToken = (email: string) => passwordResets.createToken(email);
  const sent = { db, queue, transport, resetToken, publicUrl, logger };
  resources.use(startMailDispatcher(sent, mailTiming));
}

/** Opens the front door, and tells local clients where it is. Returns the base URL of the API. */
async function serve(
  { app, streams, events }: Context,
  { dataDir, host, port }: ControlPlaneOptions,
  front: AsyncDisposableStack,
): Promise<string> {
  const door = await FrontDoor.open({ host, port }, [apiEntrance(app, streams)]);
  front.defer(() => door.close(CLOSE_GRACE_MS));
  front.defer(() => streams.close());
  front.defer(() => events.close());
  await publishApiFile(dataDir, door.url);
  front.defer(() => withdrawApiFile(dataDir));
  return door.url;
}
