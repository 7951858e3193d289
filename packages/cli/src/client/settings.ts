import { access, constants, readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { TorporError } from '@torpor/protocol';
import { DEFAULT_API_URL, Torpor } from '@torpor/sdk';
import type { Io } from '../io.ts';
import { DEFAULT_DATA_DIR } from '../platform/settings.ts';

export const DEFAULT_PORT = 7070;

/** Options that every command has. */
export interface CommonOptions {
  readonly json?: boolean;
  readonly dataDir?: string;
  readonly apiUrl?: string;
  readonly apiKey?: string;
}

export function dataDirectory(io: Io, options: CommonOptions): string {
  return resolve(options.dataDir ?? io.env.TORPOR_DATA_DIR ?? DEFAULT_DATA_DIR);
}

export interface Endpoint {
  readonly apiUrl: string;
  readonly apiKey: string | undefined;
  readonly dataDir: string;
}

/**
 * Where the API is, and the key to it: from the options, else the environment,
 * else what the local `torpor up` wrote into the data directory.
 */
export async function findEndpoint(io: Io, options: CommonOptions): Promise<Endpoint> {
  const dataDir = dataDirectory(io, options);
  const givenUrl = options.apiUrl ?? io.env.TORPOR_API_URL;
  const givenKey = options.apiKey ?? io.env.TORPOR_API_KEY;
  return {
    dataDir,
    apiUrl: givenUrl ?? (await localUrl(dataDir)) ?? portUrl(io) ?? DEFAULT_API_URL,
    apiKey: givenKey ?? (await localKey(dataDir)),
  };
}

/** A client of the API that {@link findEndpoint} finds. Throws `unauthorized` without a key. */
export async function connect(io: Io, options: CommonOptions): Promise<Torpor> {
  const { apiUrl, apiKey, dataDir } = await findEndpoint(io, options);
  if (apiKey === undefined) {
    const found = await keyFileState(dataDir);
    throw new TorporError('unauthorized', `No API key is set, and ${found}.`, {
      remedy:
        'Start Torpor with `npm start`, or set TORPOR_API_URL and TORPOR_API_KEY to those of a running server. Only root can read the key in a data directory.',
    });
  }
  return new Torpor({ apiUrl, apiKey });
}

/** Why the data directory gives no key. */
async function keyFileState(dataDir: string): Promise<string> {
  try {
    await access(join(dataDir, 'credentials.json'), constants.R_OK);
    return `the one in ${dataDir} is damaged`;
  } catch (error) {
    const denied = error instanceof Error && 'code' in error && error.code === 'EACCES';
    return denied ? `you may not read the one in ${dataDir}` : `${dataDir} has none`;
  }
}

async function localUrl(dataDir: string): Promise<string | undefined> {
  return stringField(await readJson(join(dataDir, 'run', 'api.json')), 'url');
}

async function localKey(dataDir: string): Promise<string | undefined> {
  return stringField(await readJson(join(dataDir, 'credentials.json')), 'api_key');
}

function portUrl(io: Io): string | undefined {
  const port = io.env.TORPOR_PORT;
  return port === undefined || port === '' ? undefined : `http://127.0.0.1:${port}`;
}

function stringField(value: unknown, name: string): string | undefined {
  if (typeof value !== 'object' || value === null || !(name in value)) return undefined;
  const field: unknown = (value as Record<string, unknown>)[name];
  return typeof field === 'string' ? field : undefined;
}

/** Undefined where the file is missing, unreadable for this user, or being replaced. */
async function readJson(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, 'utf8'));
  } catch {
    return undefined;
  }
}
