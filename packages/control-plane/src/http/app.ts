import { OpenAPIHono } from '@hono/zod-openapi';
import { TorporError } from '@torpor/protocol';
import type { MiddlewareHandler } from 'hono';
import type { Logger } from 'pino';
import type { ApiKeyStore } from '../auth/api-keys.ts';
import type { BuildService } from '../builds/service.ts';
import type { GuestFiles } from '../guest/files.ts';
import type { GuestProcesses } from '../guest/processes.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { SandboxLifecycle } from '../sandboxes/lifecycle.ts';
import type { SandboxService } from '../sandboxes/service.ts';
import type { TemplateService } from '../templates/service.ts';
import { addDocsRoutes } from './docs.ts';
import type { Api } from './endpoint.ts';
import type { AppEnvironment } from './environment.ts';
import { errorResponse } from './error-response.ts';
import { addHomeRoute } from './home.ts';
import { addOpenApiRoute } from './openapi.ts';
import { addFileRoutes } from './routes/files.ts';
import { addProcessRoutes } from './routes/processes.ts';
import { addSandboxRoutes } from './routes/sandboxes.ts';
import { addBuildRoutes, addLifecycleRoutes, addSnapshotRoutes } from './routes/snapshots.ts';
import { addStreamRoutes } from './routes/streams.ts';
import { addSystemRoutes } from './routes/system.ts';

export interface AppParts {
  readonly version: string;
  readonly logger: Logger;
  readonly apiKeys: ApiKeyStore;
  readonly sandboxes: SandboxService;
  readonly lifecycle: SandboxLifecycle;
  readonly templates: TemplateService;
  readonly builds: BuildService;
  readonly processes: GuestProcesses;
  readonly files: GuestFiles;
  readonly metrics: Metrics;
}

/** The HTTP application. It knows nothing of ports: tests call `app.request()`. */
export function createApp(parts: AppParts): Api {
  const app: Api = new OpenAPIHono<AppEnvironment>();
  app.onError((error, c) => errorResponse(c, error));
  app.use(observe(parts));
  app.use('/v1/*', authenticate(parts.apiKeys));

  addSystemRoutes(app, parts);
  addSandboxRoutes(app, parts.sandboxes);
  addLifecycleRoutes(app, parts.lifecycle);
  addSnapshotRoutes(app, parts.templates);
  addProcessRoutes(app, parts.processes);
  addStreamRoutes(app);
  addFileRoutes(app, parts.files, parts.logger);
  addBuildRoutes(app, parts.builds);
  addOpenApiRoute(app, parts.version);
  addDocsRoutes(app);
  addHomeRoute(app, parts.version);

  const allowedMethods = methodIndex(app);
  app.notFound((c) => {
    const allowed = allowedMethods(c.req.path);
    if (allowed.length > 0) {
      c.header('Allow', allowed.join(', '));
      return errorResponse(
        c,
        new TorporError(
          'method_not_allowed',
          `${c.req.method} is not possible on ${c.req.path}, only ${allowed.join(', ')}.`,
        ),
      );
    }
    return errorResponse(
      c,
      new TorporError('not_found', `There is no ${c.req.path} in this API.`, {
        remedy: 'See /docs for what there is.',
      }),
    );
  });
  return app;
}

/** Measures and logs every request. Neither bodies, nor headers, nor queries are ever logged. */
function observe(parts: AppParts): MiddlewareHandler<AppEnvironment> {
  return async (c, next) => {
    const started = performance.now();
    await next();
    const seconds = (performance.now() - started) / 1000;
    const route = c.get('route') ?? 'unmatched';
    const status = c.res.status;
    parts.metrics.httpDuration.observe({ method: c.req.method, route, status }, seconds);
    const entry = { method: c.req.method, route, status, ms: Math.round(seconds * 1000) };
    if (status < 500) {
      parts.logger.debug(entry, 'Request');
    } else {
      parts.logger.error({ ...entry, err: c.error }, 'Request failed');
    }
  };
}

function authenticate(apiKeys: ApiKeyStore): MiddlewareHandler<AppEnvironment> {
  return async (c, next) => {
    c.set('principal', await apiKeys.authenticate(c.req.header('x-api-key')));
    await next();
  };
}

/** The methods that exist for a path which was asked for with another one. */
function methodIndex(app: Api): (path: string) => readonly string[] {
  const routes = app.routes
    .filter((route) => route.method !== 'ALL')
    .map((route) => ({
      method: route.method,
      pattern: new RegExp(`^${route.path.replaceAll(/[.]/g, '\\.').replaceAll(/:\w+/g, '[^/]+')}$`),
    }));
  return (path) => [
    ...new Set(routes.filter(({ pattern }) => pattern.test(path)).map(({ method }) => method)),
  ];
}
