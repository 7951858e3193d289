import type { rest } from '@torpor/protocol';
import type { Context } from 'hono';
import type { Session } from '../../auth/sessions.ts';
import { type LinkedPage, pageLink } from '../../mail/link.ts';
import type { Team } from '../../teams/teams.ts';
import type { LoggedIn, User } from '../../users/accounts.ts';
import type { WebSettings } from '../credentials.ts';
import type { AppEnvironment } from '../environment.ts';
import { isSecure, sessionCookie } from '../session-cookie.ts';

export function presentUser(user: User): rest.User {
  const { id, email, name, is_admin, status, has_password, created_at } = user;
  return {
    id,
    email,
    name,
    is_admin,
    status,
    has_password,
    created_at: created_at.toISOString(),
  };
}

export function presentTeam({ id, name, created_at, role }: Team): rest.Team {
  return {
    id,
    name,
    created_at: created_at.toISOString(),
    ...(role === undefined ? {} : { role }),
  };
}

export function presentSession(session: Session, currentId: string): rest.Session {
  const { id, address, user_agent } = session;
  return {
    id,
    current: id === currentId,
    ...(address === null ? {} : { address }),
    ...(user_agent === null ? {} : { user_agent }),
    created_at: session.created_at.toISOString(),
    last_used: session.last_used_at.toISOString(),
    expires_at: session.expires_at.toISOString(),
  };
}

/** The session as the client asked for it: a cookie, or a token in the body. */
export function presentStartedSession(
  c: Context<AppEnvironment>,
  { user, session, token }: LoggedIn,
  mode: 'cookie' | 'token',
  { publicUrl }: WebSettings,
): rest.StartedSession {
  if (mode === 'cookie') {
    const secure = isSecure((name) => c.req.header(name), publicUrl);
    c.header('Set-Cookie', sessionCookie(token, session.expires_at, secure));
  }
  c.header('Cache-Control', 'no-store');
  return {
    user: presentUser(user),
    ...(session.team_id === null ? {} : { team_id: session.team_id }),
    expires_at: session.expires_at.toISOString(),
    ...(mode === 'token' ? { token } : {}),
  };
}

/** A link of a page of this server. */
export function linkTo(
  c: Context<AppEnvironment>,
  { publicUrl }: WebSettings,
  page: LinkedPage,
  token: string,
): string {
  return pageLink(publicUrl ?? new URL(c.req.url).origin, page, token);
}
