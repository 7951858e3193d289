/**
 * Pages for people who have a browser and no other client: log in, approve a program's login,
 * accept an invitation, set a password. They work without scripts. Forms are accepted from
 * pages of this server only, and what they do is done by the services of the API.
 */
import { TorporError } from '@torpor/protocol';
import type { Context } from 'hono';
import type { AccessWatch } from '../../auth/access-watch.ts';
import type { Authenticator } from '../../auth/authenticator.ts';
import { originOf } from '../browser-origin.ts';
import type { WebSettings } from '../credentials.ts';
import type { Api } from '../endpoint.ts';
import type { AppEnvironment } from '../environment.ts';
import { authenticate } from '../middleware/authenticate.ts';
import { isSecure, tokenInCookie } from '../session-cookie.ts';
import { type AccountPageServices, addAccountPages } from './account-pages.ts';
import { addDevicePages, type DevicePageServices } from './device-pages.ts';
import { failurePage } from './failure.ts';
import { addLinkPages, type LinkPageServices } from './link-pages.ts';
import type { AddPage } from './page.ts';

export interface PageServices extends AccountPageServices, DevicePageServices, LinkPageServices {
  readonly authenticator: Authenticator;
  readonly accessWatch: AccessWatch;
}

export function addPageRoutes(api: Api, services: PageServices): void {
  const { authenticator, web } = services;
  const add: AddPage = (method, path, handler) => {
    api.on(method, path, authenticate(services, web), async (c) => {
      c.set('route', path);
      // Only the cookie counts. A page may be opened from elsewhere, as a provider does: it changes nothing.
      const header = (name: string) => c.req.header(name);
      const sessionToken = tokenInCookie(header, isSecure(header, web.publicUrl)) ?? '';
      c.set('authenticate', () => authenticator.authenticate({ sessionToken }));
      try {
        if (method === 'POST') assertOwnForm(c, web);
        return await handler(c);
      } catch (reason) {
        return failurePage(c, reason);
      }
    });
  };
  addAccountPages(add, services);
  addDevicePages(add, services);
  addLinkPages(add, services);
}

function assertOwnForm(c: Context<AppEnvironment>, { publicUrl }: WebSettings): void {
  if (originOf((name) => c.req.header(name), publicUrl) === 'same') return;
  throw new TorporError('forbidden', 'The form is not from a page of this server.', {
    remedy: 'Open the server at its own address; behind a proxy, set public_url to that.',
  });
}
