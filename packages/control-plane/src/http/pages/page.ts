import { TorporError } from '@torpor/protocol';
import type { Context } from 'hono';
import type { z } from 'zod';
import type { Principal } from '../../auth/principal.ts';
import type { LoggedIn } from '../../users/accounts.ts';
import { parseWith } from '../../validation/parse-with.ts';
import type { WebSettings } from '../credentials.ts';
import type { AppEnvironment } from '../environment.ts';
import { readForm } from '../request-input.ts';
import { isSecure, sessionCookie } from '../session-cookie.ts';

export type PageHandler = (c: Context<AppEnvironment>) => Response | Promise<Response>;

/** Adds a page; what its handler throws is shown as one. */
export type AddPage = (method: 'GET' | 'POST', path: string, handler: PageHandler) => void;

/** Who is logged in; undefined if nobody is. */
export async function visitor(c: Context<AppEnvironment>): Promise<Principal | undefined> {
  try {
    return await c.get('authenticate')();
  } catch (reason) {
    if (TorporError.from(reason).code === 'unauthorized') return undefined;
    throw reason;
  }
}

/** The fields of the form. Throws `invalid_request`. */
export async function fields<S extends z.ZodType>(
  c: Context<AppEnvironment>,
  schema: S,
): Promise<z.output<S>> {
  return parseWith(schema, await readForm(c.req.raw), 'form');
}

export function setSession(
  c: Context<AppEnvironment>,
  { publicUrl }: WebSettings,
  { token, session }: LoggedIn,
): void {
  const secure = isSecure((name) => c.req.header(name), publicUrl);
  c.header('Set-Cookie', sessionCookie(token, session.expires_at, secure));
}
