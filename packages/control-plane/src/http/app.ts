import { OpenAPIHono } from '@hono/zod-openapi';
import type { Logger } from 'pino';
import type { ApiKeyStore } from '../auth/api-keys.ts';
import type { BuildService } from '../builds/service.ts';
import type { AuditLog } from '../events/audit-log.ts';
import type { EventFeed } from '../events/feed.ts';
import type { Usage } from '../events/usage.ts';
import type { GuestFiles } from '../guest/files.ts';
import type { GuestProcesses } from '../guest/processes.ts';
import type { HostService } from '../hosts/service.ts';
import type { IdempotencyKeys } from '../idempotency/keys.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { SandboxLifecycle } from '../sandboxes/lifecycle.ts';
import type { SandboxService } from '../sandboxes/service.ts';
import type { ApiKeyService } from '../teams/api-keys.ts';
import type { Quotas } from '../teams/quotas.ts';
import type { TemplateService } from '../templates/service.ts';
import type { WebhookService } from '../webhooks/service.ts';
import { addDocsRoutes } from './docs.ts';
import type { Api } from './endpoint.ts';
import type { AppEnvironment } from './environment.ts';
import { errorResponse } from './error-response.ts';
import { addHomeRoute } from './home.ts';
import { authenticate } from './middleware/authenticate.ts';
import { identify } from './middleware/identify.ts';
import { observe } from './middleware/observe.ts';
import { notFound } from './not-found.ts';
import { addOpenApiRoute } from './openapi.ts';
import { addSystemRoutes } from './system.ts';
import { addApiKeyRoutes } from './v1/api-keys.ts';
import { addAuditRoutes } from './v1/audit.ts';
import { addBuildRoutes } from './v1/builds.ts';
import { addEventRoutes } from './v1/events.ts';
import { addFileRoutes } from './v1/files.ts';
import { addHostRoutes } from './v1/hosts.ts';
import { addLifecycleRoutes } from './v1/lifecycle.ts';
import { addProcessRoutes } from './v1/processes.ts';
import { addQuotaRoutes } from './v1/quotas.ts';
import { addSandboxRoutes } from './v1/sandboxes.ts';
import { addSnapshotRoutes } from './v1/snapshots.ts';
import { addStreamRoutes } from './v1/streams.ts';
import { addUsageRoutes } from './v1/usage.ts';
import { addWebhookRoutes } from './v1/webhooks.ts';

export interface AppParts {
  readonly version: string;
  readonly logger: Logger;
  readonly apiKeys: ApiKeyStore;
  readonly teamKeys: ApiKeyService;
  readonly sandboxes: SandboxService;
  readonly lifecycle: SandboxLifecycle;
  readonly templates: TemplateService;
  readonly builds: BuildService;
  readonly hosts: HostService;
  readonly idempotency: IdempotencyKeys;
  readonly auditLog: AuditLog;
  readonly events: EventFeed;
  readonly usage: Usage;
  readonly quotas: Quotas;
  readonly webhooks: WebhookService;
  readonly processes: GuestProcesses;
  readonly files: GuestFiles;
  readonly metrics: Metrics;
}

/** The HTTP application. It opens no port: tests call `app.request()`. */
export function createApp(parts: AppParts): Api {
  const app: Api = new OpenAPIHono<AppEnvironment>();
  app.onError((error, c) => errorResponse(c, error));
  app.use(identify());
  app.use(observe(parts));
  app.use('/v1/*', authenticate(parts.apiKeys));

  addSystemRoutes(app, parts);
  addSandboxRoutes(app, parts.sandboxes, parts.idempotency);
  addLifecycleRoutes(app, parts.lifecycle, parts.idempotency);
  addSnapshotRoutes(app, parts.templates, parts.idempotency);
  addProcessRoutes(app, parts.processes);
  addStreamRoutes(app);
  addFileRoutes(app, parts.files, parts.logger);
  addBuildRoutes(app, parts.builds);
  addHostRoutes(app, parts.hosts);
  addApiKeyRoutes(app, parts.teamKeys, parts.idempotency);
  addAuditRoutes(app, parts.auditLog);
  addEventRoutes(app, parts.events, parts.logger);
  addUsageRoutes(app, parts.usage);
  addQuotaRoutes(app, parts.quotas);
  addWebhookRoutes(app, parts.webhooks, parts.idempotency);
  addOpenApiRoute(app, parts.version);
  addDocsRoutes(app);
  addHomeRoute(app, parts.version);

  app.notFound(notFound(app));
  return app;
}
