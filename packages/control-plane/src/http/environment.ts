import type { HttpBindings } from '@hono/node-server';
import type { Principal } from '../auth/api-keys.ts';

/** What Hono's context carries in this application. */
export interface AppEnvironment {
  Bindings: Partial<HttpBindings>;
  Variables: {
    /** Set behind authentication. */
    principal: Principal;
    /** The pattern of the matched route, for metrics and logs. */
    route: string;
  };
}
