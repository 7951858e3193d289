import type { HttpBindings } from '@hono/node-server';
import type { Principal } from '../auth/principal.ts';

/** The variables of Hono's context in this application. */
export interface AppEnvironment {
  Bindings: Partial<HttpBindings>;
  Variables: {
    /** Set after authentication. */
    principal: Principal;
    /** The pattern of the matched route, for metrics and logs. */
    route: string;
  };
}
