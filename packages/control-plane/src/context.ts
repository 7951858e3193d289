import type { Transport } from '@connectrpc/connect';
import { getRequestListener } from '@hono/node-server';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import { AuditLog } from './audit/audit-log.ts';
import { ApiKeyStore } from './auth/api-keys.ts';
import { BuildService } from './builds/service.ts';
import type { Database } from './database/schema.ts';
import { GuestFiles } from './guest/files.ts';
import { GuestProcesses } from './guest/processes.ts';
import { Host } from './hosts/host.ts';
import { createApp } from './http/app.ts';
import type { Api } from './http/endpoint.ts';
import type { Entrance } from './http/front-door.ts';
import { routeStream } from './http/v1/streams.ts';
import { Metrics } from './observability/metrics.ts';
import { SandboxLifecycle } from './sandboxes/lifecycle.ts';
import { Operations } from './sandboxes/operations.ts';
import { Reconciler, type ReconcilerTiming } from './sandboxes/reconciler.ts';
import { SandboxRepository } from './sandboxes/repository.ts';
import { SandboxService } from './sandboxes/service.ts';
import { StreamServer } from './streams/server.ts';
import { TemplateRepository } from './templates/repository.ts';
import { TemplateService } from './templates/service.ts';
import { TemplateSweeper } from './templates/sweeper.ts';

export interface ContextOptions {
  readonly db: Kysely<Database>;
  readonly hostId: string;
  /** To the HostAgentService of the host. */
  readonly hostTransport: Transport;
  readonly guestTimeoutMs: number;
  /** The team of the operator of the host. */
  readonly operatorTeamId: string;
  readonly logger: Logger;
  readonly version: string;
  readonly reconcilerTiming?: Partial<ReconcilerTiming> | undefined;
}

export type Context = ReturnType<typeof createContext>;

/**
 * Puts the control plane together, in this one place for the server and for the writer of the
 * OpenAPI file. Nothing is started, called or queried by it; `metrics` is to be closed.
 */
export function createContext(options: ContextOptions) {
  const { db, logger, version } = options;
  const host = new Host(options.hostId, options.hostTransport, options.guestTimeoutMs);
  const repository = new SandboxRepository(db);
  const metrics = new Metrics(repository);
  const parts = {
    host,
    sandboxes: repository,
    templates: new TemplateRepository(db),
    operations: new Operations(),
    audit: new AuditLog(db),
    metrics,
    logger,
  };
  const { reconcilerTiming: timing } = options;
  const sandboxes = new SandboxService(parts);
  const services = {
    apiKeys: new ApiKeyStore(db),
    sandboxes,
    lifecycle: new SandboxLifecycle(parts),
    templates: new TemplateService(parts),
    builds: new BuildService(host, options.operatorTeamId),
    processes: new GuestProcesses(sandboxes, host.client, metrics),
    files: new GuestFiles(sandboxes, host.client),
  };
  return {
    ...services,
    parts,
    metrics,
    reconciler: new Reconciler({ ...parts, ...(timing === undefined ? {} : { timing }) }),
    sweeper: new TemplateSweeper(parts, timing?.listIntervalMs),
    app: createApp({ ...services, version, logger, metrics }),
    streams: new StreamServer({ ...services, router: routeStream, logger }),
  };
}

/** The API: HTTP and WebSockets, under every host name and path that nothing else serves. */
export function apiEntrance(app: Api, streams: StreamServer): Entrance {
  return {
    serves: () => true,
    request: getRequestListener(app.fetch),
    upgrade: (request, socket, head) => streams.upgrade(request, socket, head),
  };
}
