import { TorporError } from '@torpor/protocol';
import type { Context } from 'hono';
import { html } from 'hono/html';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { errorBody } from '../../errors/public-error.ts';
import type { AppEnvironment } from '../environment.ts';
import { respondWithPage } from './layout.ts';

/** Whether it is a browser that shows the response to its user. */
export function wantsPage(c: Context<AppEnvironment>): boolean {
  return (c.req.header('accept') ?? '').includes('text/html');
}

/** What went wrong, for people. */
export function failurePage(c: Context<AppEnvironment>, reason: unknown): Promise<Response> {
  const error = TorporError.from(reason);
  if (error.retryAfterSec !== undefined) c.header('Retry-After', String(error.retryAfterSec));
  return respondWithPage(c, {
    title: 'That did not work',
    status: error.httpStatus as ContentfulStatusCode,
    body: [sentences(error), html`<p><a href="/login">Log in</a></p>`],
  });
}

/** An error above a form that can be sent again. */
export function sentences(reason: unknown) {
  const { message, remedy } = errorBody(TorporError.from(reason)).error;
  return html`<p class="error">${message} ${remedy ?? ''}</p>`;
}
