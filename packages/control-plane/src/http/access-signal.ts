import type { Permission } from '@torpor/protocol';
import type { Context } from 'hono';
import type { AppEnvironment } from './environment.ts';

/**
 * Aborts when the client disconnects, or has lost what the endpoint needs: what takes longer
 * than other requests ends then. `also`: what it needs besides.
 */
export function accessSignal(
  c: Context<AppEnvironment>,
  ...also: readonly Permission[]
): AbortSignal {
  const watched = c.get('watchAccess')(c.get('principal'), [...c.get('needs'), ...also]);
  c.set('accessLost', watched.signal);
  c.env?.outgoing?.once('close', () => watched[Symbol.dispose]());
  return AbortSignal.any([c.req.raw.signal, watched.signal]);
}
