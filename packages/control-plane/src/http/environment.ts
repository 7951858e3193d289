import type { HttpBindings } from '@hono/node-server';
import type { Permission } from '@torpor/protocol';
import type { AccessWatch } from '../auth/access-watch.ts';
import type { Principal } from '../auth/principal.ts';
import type { Client } from '../auth/sessions.ts';

/** The variables of Hono's context in this application. */
export interface AppEnvironment {
  Bindings: Partial<HttpBindings>;
  Variables: {
    /** Set by endpoints that are not public. */
    principal: Principal;
    /**
     * Finds out who makes the request. `teamId`: the team that it is about. Throws `unauthorized`;
     * `not_found` for a team that the caller is not in; `forbidden` for a request of another site.
     */
    authenticate: (teamId?: string) => Promise<Principal>;
    /** Throws `forbidden` for a request of another site. */
    assertNotForeign: () => void;
    client: Client;
    /** What the endpoint needs besides valid credentials. */
    needs: readonly Permission[];
    watchAccess: AccessWatch['watch'];
    /** Of what takes longer: see {@link accessSignal}. */
    accessLost: AbortSignal | undefined;
    /** The pattern of the matched route, for metrics and logs. */
    route: string;
  };
}
