import { TorporError } from '@torpor/protocol';
import type { NotFoundHandler } from 'hono';
import type { Api } from './endpoint.ts';
import type { AppEnvironment } from './environment.ts';
import { errorResponse } from './error-response.ts';

/** Handles requests that match no route: `method_not_allowed` if the path exists, else `not_found`. Create it after all routes. */
export function notFound(app: Api): NotFoundHandler<AppEnvironment> {
  const allowedMethods = methodIndex(app);
  return (c) => {
    const { path, method } = c.req;
    const allowed = allowedMethods(path);
    if (allowed.length === 0) {
      const error = new TorporError('not_found', `This API has no endpoint ${path}.`, {
        remedy: '/docs lists the endpoints.',
      });
      return errorResponse(c, error);
    }
    c.header('Allow', allowed.join(', '));
    const what = `${path} does not support ${method}, only ${allowed.join(', ')}.`;
    return errorResponse(c, new TorporError('method_not_allowed', what));
  };
}

/** Returns the methods that exist for a path. */
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
