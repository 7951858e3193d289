import type { MiddlewareHandler } from 'hono';
import type { ApiKeyStore } from '../../auth/api-keys.ts';
import type { AppEnvironment } from '../environment.ts';

/** Sets the principal of the key in the header `X-API-Key`. Throws `unauthorized`. */
export function authenticate(apiKeys: ApiKeyStore): MiddlewareHandler<AppEnvironment> {
  return async (c, next) => {
    c.set('principal', await apiKeys.authenticate(c.req.header('x-api-key')));
    await next();
  };
}
