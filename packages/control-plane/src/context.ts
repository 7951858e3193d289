import { getRequestListener } from '@hono/node-server';
import {
  FORWARDING_TRACER,
  ID_PREFIXES,
  logRequestIds,
  type QuotaLimits,
  type Tracer,
} from '@torpor/protocol';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import { AccessWatch } from './auth/access-watch.ts';
import { ApiKeyStore } from './auth/api-keys.ts';
import { AttemptLimiter } from './auth/attempts.ts';
import { Authenticator } from './auth/authenticator.ts';
import type { SecretBox } from './auth/secret-box.ts';
import { SessionStore } from './auth/sessions.ts';
import { BuildService } from './builds/service.ts';
import type { ConfiguredProviders, ExecAuditLevel } from './config/index.ts';
import type { Database } from './database/schema.ts';
import { recordInAuditLog } from './events/audit.ts';
import { AuditLog } from './events/audit-log.ts';
import { OutboxDelivery } from './events/delivery.ts';
import { EventFeed } from './events/feed.ts';
import { recordUsage, Usage } from './events/usage.ts';
import { GuestAccess } from './guest/access.ts';
import { ExecAudit } from './guest/exec-audit.ts';
import { GuestFiles } from './guest/files.ts';
import { GuestProcesses } from './guest/processes.ts';
import { HostInventory } from './hosts/inventory.ts';
import { authorityOnce } from './hosts/open-authority.ts';
import { Placement } from './hosts/placement.ts';
import { HostRegistry } from './hosts/registry.ts';
import { HostService } from './hosts/service.ts';
import { createApp } from './http/app.ts';
import { headersOf } from './http/browser-origin.ts';
import { credentialsOf, type WebSettings } from './http/credentials.ts';
import type { Api } from './http/endpoint.ts';
import type { Entrance } from './http/front-door.ts';
import { routeStream } from './http/v1/streams.ts';
import { IdempotencyKeys } from './idempotency/keys.ts';
import { IdentityService } from './identities/identities.ts';
import { ProviderLogin } from './identities/provider-login.ts';
import { Providers } from './identities/providers.ts';
import { noticesTo } from './mail/notices.ts';
import { MailQueue } from './mail/queue.ts';
import type { MailSettings } from './mail/transport.ts';
import { Metrics } from './observability/metrics.ts';
import { OperationLocks } from './operations/locks.ts';
import { OperationRunner } from './operations/runner.ts';
import { hostedRows } from './sandboxes/hosted.ts';
import { SandboxLifecycle } from './sandboxes/lifecycle.ts';
import { sandboxRecovery } from './sandboxes/recovery.ts';
import { SandboxRepository } from './sandboxes/repository.ts';
import { SandboxService } from './sandboxes/service.ts';
import { StreamServer } from './streams/server.ts';
import { ApiKeyService } from './teams/api-keys.ts';
import { InvitationService } from './teams/invitations.ts';
import { MemberService } from './teams/members.ts';
import { Quotas } from './teams/quotas.ts';
import { TeamService } from './teams/teams.ts';
import { NAME_PREFIX } from './templates/parts.ts';
import { nameRecovery } from './templates/recovery.ts';
import { TemplateRepository } from './templates/repository.ts';
import { TemplateService } from './templates/service.ts';
import { DeviceLoginService } from './users/device-login.ts';
import { UserDirectory } from './users/directory.ts';
import { LoginService } from './users/login.ts';
import { PasswordResets } from './users/password-reset.ts';
import { ProfileService } from './users/profile.ts';
import { SessionService } from './users/sessions.ts';
import { SignUpService } from './users/sign-up.ts';
import { type DispatcherTiming, WebhookDispatcher } from './webhooks/dispatcher.ts';
import { enqueueDeliveries } from './webhooks/enqueue.ts';
import { WebhookSender } from './webhooks/sender.ts';
import { WebhookService } from './webhooks/service.ts';

export interface ContextOptions {
  readonly db: Kysely<Database>;
  readonly logger: Logger;
  /** Traces are only passed on if omitted. */
  readonly tracer?: Tracer | undefined;
  readonly version: string;
  /** How long an operation keeps its locks after its control plane has died. */
  readonly leaseMs?: number | undefined;
  readonly secrets: SecretBox;
  /** Where agents find the control plane; undefined while it does not listen for them. */
  readonly joinUrl: () => string | undefined;
  /** Called when the row of a host has changed. */
  readonly onHostsChanged: () => void;
  /** How many vCPUs of sandboxes there may be per processor of a host; any number if omitted. */
  readonly vcpuOvercommit?: number | undefined;
  /** What a team may have that has no limits of its own. */
  readonly quotas: QuotaLimits;
  /** What the audit log has of programs that are started. */
  readonly auditExec: ExecAuditLevel;
  /** Networks besides the public internet that webhooks may call, in CIDR notation. */
  readonly webhookNetworks: readonly string[];
  readonly webhookTiming?: Partial<DispatcherTiming> | undefined;
  readonly web: WebSettings;
  /** Whether everyone may sign up, and not only those who are invited. */
  readonly signUpOpen: boolean;
  /** How many teams a user may own, who is no operator. */
  readonly teamsPerUser: number;
  /** Services that users can log in with; they need `web.publicUrl`. */
  readonly providers: ConfiguredProviders;
  /** Whose verified email addresses may sign up with those even if `signUpOpen` is false. */
  readonly signUpDomains: readonly string[];
  /** Where mail goes, which links to `web.publicUrl`; none is sent if undefined. */
  readonly mail: MailSettings | undefined;
}

export type Context = ReturnType<typeof createContext>;

/**
 * Composes the control plane, for the server and for the writer of the OpenAPI file. It starts,
 * calls and queries nothing; the caller must close `metrics`.
 */
export function createContext(options: ContextOptions) {
  const { db, version, tracer = FORWARDING_TRACER } = options;
  const logger = logRequestIds(options.logger);
  const hosts = new HostRegistry();
  const authority = authorityOnce(db, options.secrets);
  const repository = new SandboxRepository(db);
  const metrics = new Metrics(repository);
  const locks = new OperationLocks({ db, logger, leaseMs: options.leaseMs });
  const mail = new MailQueue(options.secrets, options.mail && options.web.publicUrl);
  const delivery = new OutboxDelivery({
    db,
    consumers: [recordInAuditLog, recordUsage, enqueueDeliveries, noticesTo(mail)],
    logger,
  });
  const onEvents = () => delivery.wake();
  const { secrets, webhookNetworks: allowedNetworks } = options;
  const sender = new WebhookSender({ db, secrets, allowedNetworks });
  const quotas = new Quotas({ db, defaults: options.quotas, onEvents });
  const parts = {
    db,
    quotas,
    hosts,
    placement: new Placement({ hosts, vcpuOvercommit: options.vcpuOvercommit }),
    inventory: new HostInventory({ db, hosts, logger }),
    runner: new OperationRunner({ db, locks, metrics, logger, tracer, onEvents }),
    sandboxes: repository,
    templates: new TemplateRepository(db),
    logger,
  };
  parts.runner.registerRecovery(NAME_PREFIX, nameRecovery(parts));
  parts.runner.registerRecovery(ID_PREFIXES.sandbox, sandboxRecovery(parts));
  const sandboxes = new SandboxService({ ...parts, snapshots: parts.templates });
  const guests = new GuestAccess(sandboxes, hosts);
  const { web, signUpOpen, teamsPerUser } = options;
  const authenticator = new Authenticator(new ApiKeyStore(db), new SessionStore(db));
  const accessWatch = new AccessWatch(db, logger);
  const limiter = new AttemptLimiter(db);
  const providers = new Providers(options.providers);
  const accounts = { db, onEvents, limiter, mail, signUpOpen, teamsPerUser, logger };
  const services = {
    web,
    authenticator,
    accessWatch,
    limiter,
    login: new LoginService(accounts),
    signUp: new SignUpService(accounts),
    sessions: new SessionService(accounts),
    profiles: new ProfileService(accounts),
    passwordResets: new PasswordResets(accounts),
    providers,
    providerLogin: new ProviderLogin({
      ...accounts,
      providers,
      secrets,
      publicUrl: web.publicUrl,
      signUpDomains: options.signUpDomains,
    }),
    identities: new IdentityService(accounts),
    deviceLogins: new DeviceLoginService(accounts),
    signUpOpen,
    directory: new UserDirectory(accounts),
    teams: new TeamService(accounts),
    members: new MemberService(accounts),
    invitations: new InvitationService(accounts),
    sandboxes,
    lifecycle: new SandboxLifecycle(parts),
    templates: new TemplateService(parts),
    builds: new BuildService(hosts),
    hosts: new HostService({
      db,
      authority,
      joinUrl: options.joinUrl,
      hosted: hostedRows,
      onEvents,
      onChange: options.onHostsChanged,
    }),
    teamKeys: new ApiKeyService({ db, quotas, onEvents }),
    auditLog: new AuditLog(db),
    events: new EventFeed(db, logger),
    usage: new Usage(db),
    idempotency: new IdempotencyKeys({ db, secrets, logger, leaseMs: options.leaseMs }),
    quotas,
    webhooks: new WebhookService({ db, quotas, secrets, sender, allowedNetworks, onEvents }),
    processes: new GuestProcesses(guests, metrics, new ExecAudit(db, options.auditExec)),
    files: new GuestFiles(guests),
  };
  return {
    ...services,
    parts,
    metrics,
    mail,
    locks,
    delivery,
    authority,
    sender,
    dispatcher: new WebhookDispatcher({ db, sender, logger }, options.webhookTiming),
    app: createApp({ ...services, version, logger, tracer, metrics }),
    streams: new StreamServer({
      ...services,
      credentials: ({ headers }) => credentialsOf(headersOf(headers), web, false),
      router: routeStream,
      logger,
      tracer,
    }),
  };
}

/** The API: HTTP and WebSockets, on every host name and path that nothing else serves. */
export function apiEntrance(app: Api, streams: StreamServer): Entrance {
  return {
    serves: () => true,
    request: getRequestListener(app.fetch),
    upgrade: (request, socket, head) => streams.upgrade(request, socket, head),
  };
}
