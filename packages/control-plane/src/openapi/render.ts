import { readFile } from 'node:fs/promises';
import { createRouterTransport } from '@connectrpc/connect';
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { pino } from 'pino';
import { AuditLog } from '../audit/audit-log.ts';
import { ApiKeyStore } from '../auth/api-keys.ts';
import type { Database } from '../database/schema.ts';
import { BuildService } from '../builds/service.ts';
import { GuestFiles } from '../guest/files.ts';
import { GuestProcesses } from '../guest/processes.ts';
import { Host } from '../hosts/host.ts';
import { createApp } from '../http/app.ts';
import { openApiDocument } from '../http/openapi.ts';
import { Metrics } from '../observability/metrics.ts';
import { Operations } from '../sandboxes/operations.ts';
import { SandboxLifecycle } from '../sandboxes/lifecycle.ts';
import { SandboxRepository } from '../sandboxes/repository.ts';
import { SandboxService } from '../sandboxes/service.ts';
import { TemplateRepository } from '../templates/repository.ts';
import { TemplateService } from '../templates/service.ts';

/** Where the description of the API is kept under version control. */
export const OPENAPI_FILE = new URL('../../../protocol/openapi/torpor.v1.json', import.meta.url);

/** The OpenAPI description as it should be in {@link OPENAPI_FILE}. The application is put together, but connected to nothing. */
export async function renderOpenApi(): Promise<string> {
  const manifest = await readFile(new URL('../../package.json', import.meta.url), 'utf8');
  const { version } = JSON.parse(manifest) as { version: string };
  const logger = pino({ level: 'silent' });
  const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool: new pg.Pool() }) });
  const repository = new SandboxRepository(db);
  const metrics = new Metrics(repository);
  const host = new Host('none', createRouterTransport(() => undefined), 0);
  const parts = {
    host,
    sandboxes: repository,
    templates: new TemplateRepository(db),
    operations: new Operations(),
    audit: new AuditLog(db),
    metrics,
    logger,
  };
  const sandboxes = new SandboxService(parts);
  const app = createApp({
    version,
    logger,
    apiKeys: new ApiKeyStore(db),
    sandboxes,
    lifecycle: new SandboxLifecycle(parts),
    templates: new TemplateService(parts),
    builds: new BuildService(host, ''),
    processes: new GuestProcesses(sandboxes, host.client, metrics),
    files: new GuestFiles(sandboxes, host.client),
    metrics,
  });
  metrics.close();
  return `${JSON.stringify(openApiDocument(app, version), null, 2)}\n`;
}
