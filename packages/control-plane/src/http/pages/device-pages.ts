import type { Context } from 'hono';
import { html } from 'hono/html';
import { z } from 'zod';
import type { DeviceLoginService, DeviceRequest } from '../../users/device-login.ts';
import type { ProfileService } from '../../users/profile.ts';
import type { AppEnvironment } from '../environment.ts';
import { sentences } from './failure.ts';
import { hidden } from './forms.ts';
import { respondWithPage } from './layout.ts';
import { type AddPage, fields, visitor } from './page.ts';

export interface DevicePageServices {
  readonly deviceLogins: DeviceLoginService;
  readonly profiles: ProfileService;
}

const codeForm = z.strictObject({ user_code: z.string().max(64) });
const decisionForm = codeForm.extend({ decision: z.enum(['approved', 'denied']) });

const LOGIN = '/login?return_to=%2Fdevice';

export function addDevicePages(add: AddPage, services: DevicePageServices): void {
  const { deviceLogins, profiles } = services;
  add('GET', '/device', async (c) => {
    const principal = await visitor(c);
    return principal?.user === undefined ? c.redirect(LOGIN, 303) : codePage(c);
  });
  add('POST', '/device', async (c) => {
    const { user_code: code } = await fields(c, codeForm);
    const principal = await c.get('authenticate')();
    const user = await profiles.find(principal);
    try {
      const request = await deviceLogins.find(principal, code, c.get('client'));
      return await decisionPage(c, code, request, user?.email ?? '');
    } catch (reason) {
      return codePage(c, reason);
    }
  });
  add('POST', '/device/decision', async (c) => {
    const { user_code: code, decision } = await fields(c, decisionForm);
    await deviceLogins.decide(await c.get('authenticate')(), code, decision, c.get('client'));
    const text =
      decision === 'approved'
        ? 'The program is logged in. You can close this page.'
        : 'The program is not logged in.';
    return respondWithPage(c, { title: 'Log a program in', body: html`<p>${text}</p>` });
  });
}

function codePage(c: Context<AppEnvironment>, failure?: unknown): Promise<Response> {
  return respondWithPage(c, {
    title: 'Log a program in',
    status: failure === undefined ? 200 : 404,
    body: [
      failure === undefined ? html`` : sentences(failure),
      html`<p>Enter the code that the program shows. Enter none that somebody has sent to you: it would
log that person in to your account.</p>
<form method="post" action="/device">
<label for="user_code">Code</label>
<input id="user_code" name="user_code" autocomplete="off" autocapitalize="characters" spellcheck="false" required>
<button>Continue</button>
</form>`,
    ],
  });
}

function decisionPage(
  c: Context<AppEnvironment>,
  code: string,
  { address, user_agent: agent, created_at: at }: DeviceRequest,
  email: string,
): Promise<Response> {
  return respondWithPage(c, {
    title: 'Log a program in',
    body: html`<p>A program asks for a session of your account <strong>${email}</strong>:</p>
<ul>
<li>code: <code>${code}</code> – does the program that you have started show the same?</li>
<li>from: ${address ?? 'an unknown address'}</li>
<li>as: ${agent ?? 'unknown'}</li>
<li>at: ${at.toISOString()}</li>
</ul>
<p>If you have not started it yourself, decline.</p>
<form method="post" action="/device/decision">
${hidden('user_code', code)}
<button name="decision" value="approved">Approve</button>
<button name="decision" value="denied">Decline</button>
</form>`,
  });
}
