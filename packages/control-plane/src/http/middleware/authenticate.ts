import type { MiddlewareHandler } from 'hono';
import type { AccessWatch } from '../../auth/access-watch.ts';
import type { Authenticator } from '../../auth/authenticator.ts';
import { clientAddress } from '../client-address.ts';
import { assertNotForeign, credentialsOf, type WebSettings } from '../credentials.ts';
import type { AppEnvironment } from '../environment.ts';

const READING = ['GET', 'HEAD', 'OPTIONS'];

interface Parts {
  readonly authenticator: Authenticator;
  readonly accessWatch: AccessWatch;
}

/** Gives endpoints the means to find out who makes a request. */
export function authenticate(
  { authenticator, accessWatch }: Parts,
  web: WebSettings,
): MiddlewareHandler<AppEnvironment> {
  return async (c, next) => {
    const header = (name: string) => c.req.header(name);
    const isReading = READING.includes(c.req.method);
    c.set('authenticate', async (teamId) => {
      const credentials = credentialsOf(header, web, isReading);
      return authenticator.authenticate(
        teamId === undefined ? credentials : { ...credentials, teamId },
      );
    });
    c.set('assertNotForeign', () => assertNotForeign(header, web));
    c.set('watchAccess', (principal, needs) => accessWatch.watch(principal, needs));
    c.set('client', {
      address: clientAddress(
        c.env?.incoming?.socket.remoteAddress,
        header('x-forwarded-for'),
        web.trustedProxies,
      ),
      userAgent: header('user-agent'),
    });
    await next();
  };
}
