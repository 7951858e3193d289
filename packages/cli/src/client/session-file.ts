import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { TorporError } from '@torpor/sdk/basics';
import type { Io } from '../io.ts';

/** The session of `torpor login`. */
export interface StoredSession {
  /** The server that it is for; no other gets the token. */
  readonly apiUrl: string;
  readonly token: string;
}

const OWNER_ONLY = 0o600;

/** In the directory for configuration of the XDG Base Directory Specification; undefined without a home directory. */
function pathOf({ env }: Io): string | undefined {
  const { XDG_CONFIG_HOME: configHome, HOME: home } = env;
  if (configHome) return join(configHome, 'torpor', 'session.json');
  return home ? join(home, '.config', 'torpor', 'session.json') : undefined;
}

/** Undefined if nobody is logged in. */
export async function readSession(io: Io): Promise<StoredSession | undefined> {
  const path = pathOf(io);
  if (path === undefined) return undefined;
  try {
    const stored: unknown = JSON.parse(await readFile(path, 'utf8'));
    if (typeof stored !== 'object' || stored === null) return undefined;
    const { api_url: apiUrl, token } = stored as Record<string, unknown>;
    return typeof apiUrl === 'string' && typeof token === 'string' ? { apiUrl, token } : undefined;
  } catch {
    return undefined;
  }
}

/** Only its owner can read it. */
export async function writeSession(io: Io, { apiUrl, token }: StoredSession): Promise<void> {
  const path = pathOf(io);
  if (path === undefined) {
    throw new TorporError('host_setup', 'There is no place for the session.', {
      remedy: 'Set HOME or XDG_CONFIG_HOME.',
    });
  }
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const temporary = `${path}.${process.pid}`;
  await writeFile(temporary, `${JSON.stringify({ api_url: apiUrl, token }, null, 2)}\n`, {
    mode: OWNER_ONLY,
  });
  await rename(temporary, path);
}

export async function removeSession(io: Io): Promise<void> {
  const path = pathOf(io);
  if (path !== undefined) await rm(path, { force: true });
}
