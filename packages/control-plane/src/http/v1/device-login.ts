import { rest } from '@torpor/protocol';
import { type DeviceLoginService, POLL_INTERVAL_SEC } from '../../users/device-login.ts';
import type { WebSettings } from '../credentials.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import { presentStartedSession } from './present-accounts.ts';

const TAG = 'Accounts';

const START = defineEndpoint({
  method: 'post',
  path: '/v1/auth/device',
  operationId: 'startDeviceLogin',
  access: 'public',
  summary: 'Begin the login of a program whose user has a browser elsewhere',
  description:
    'Show the user the page and the code, and ask `POST /v1/auth/device/token` for the session.',
  tag: TAG,
  responses: { 201: jsonResponse('The codes.', rest.deviceLoginSchema) },
});

const TOKEN = defineEndpoint({
  method: 'post',
  path: '/v1/auth/device/token',
  operationId: 'finishDeviceLogin',
  access: 'public',
  summary: 'Get the session of a device login, once, after the user has approved',
  description:
    '`forbidden` if the user declined; `not_found` once the code has expired or was used; `rate_limited` if it is asked more often than at its interval.',
  tag: TAG,
  body: rest.deviceTokenSchema,
  responses: {
    200: jsonResponse('The session has begun.', rest.startedSessionSchema),
    202: jsonResponse('The user has not decided yet.', rest.devicePendingSchema),
  },
});

export interface DeviceLoginServices {
  readonly web: WebSettings;
  readonly deviceLogins: DeviceLoginService;
}

export function addDeviceLoginRoutes(api: Api, { web, deviceLogins }: DeviceLoginServices): void {
  addEndpoint(api, START, async (c) => {
    c.get('assertNotForeign')();
    const { deviceCode, userCode, lifetimeSec } = await deviceLogins.start(c.get('client'));
    const base = web.publicUrl ?? new URL(c.req.url).origin;
    c.header('Cache-Control', 'no-store');
    return c.json(
      {
        device_code: deviceCode,
        user_code: userCode,
        verification_uri: `${base.replace(/\/$/, '')}/device`,
        expires_in: lifetimeSec,
        interval: POLL_INTERVAL_SEC,
      } satisfies rest.DeviceLogin,
      201,
    );
  });
  addEndpoint(api, TOKEN, async (c, { body }) => {
    c.get('assertNotForeign')();
    const loggedIn = await deviceLogins.poll(body.device_code, c.get('client'));
    if (loggedIn !== undefined) return c.json(presentStartedSession(c, loggedIn, 'token', web));
    const pending = { status: 'pending', interval: POLL_INTERVAL_SEC } as const;
    return c.json(pending satisfies rest.DevicePending, 202);
  });
}
