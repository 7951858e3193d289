import { access, constants, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Config, type LoadedConfig, loadConfig, SETTINGS } from '@torpor/control-plane/config';
import type { Torpor } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import type { Io } from '../io.ts';
import { readSession, type StoredSession } from './session-file.ts';

/** Options that every command has. */
export interface CommonOptions {
  readonly json?: boolean;
  readonly dataDir?: string;
  readonly apiUrl?: string;
  readonly apiKey?: string;
  readonly config?: string;
}

/** The options of `up`, `control-plane` and `agent` that are settings too. */
interface ServerOptions extends CommonOptions {
  readonly host?: string;
  readonly port?: number;
  readonly acceptAgents?: boolean;
  readonly agentPort?: number;
  readonly hostPort?: number;
  readonly hostAddress?: string;
  /** In milliseconds. */
  readonly guestTimeout?: number;
}

/** All settings with their origins: from the options, the environment and the configuration file. Throws `invalid_request`. */
export function loadSettings({ env }: Io, options: ServerOptions): Promise<LoadedConfig> {
  const { dataDir, apiUrl, apiKey, guestTimeout: guestTimeoutMs } = options;
  const { host, port, acceptAgents, agentPort, hostPort, hostAddress } = options;
  const listening = { host, port, acceptAgents, agentPort, hostPort, hostAddress };
  const flags = { dataDir, apiUrl, apiKey, ...listening, guestTimeoutMs };
  return loadConfig({ flags, configFile: options.config, env });
}

/** The values of all settings. Throws `invalid_request`. */
export async function readConfig(io: Io, options: ServerOptions): Promise<Config> {
  return (await loadSettings(io, options)).config;
}

export interface Endpoint {
  readonly apiUrl: string;
  readonly apiKey: string | undefined;
  readonly dataDir: string;
}

/**
 * The address and the key of the API: from the settings, else as the local `torpor up` wrote
 * them into the data directory.
 */
export async function findEndpoint(config: Config): Promise<Endpoint> {
  const { dataDir, apiUrl, apiKey, port } = config;
  const knownPort = port === 0 ? SETTINGS.port.defaultValue : port;
  return {
    dataDir,
    apiUrl: apiUrl ?? (await localUrl(dataDir)) ?? `http://127.0.0.1:${knownPort}`,
    apiKey: apiKey ?? (await localKey(dataDir)),
  };
}

/**
 * A client of the API: with the session of `torpor login` unless a key is set, else with what
 * {@link findEndpoint} finds. Throws `unauthorized` without either.
 */
export async function connect(io: Io, options: CommonOptions): Promise<Torpor> {
  const config = await readConfig(io, options);
  const session = await sessionFor(io, config);
  if (session !== undefined) {
    const { Torpor } = await import('@torpor/sdk');
    return new Torpor({ apiUrl: session.apiUrl, sessionToken: session.token });
  }
  const { apiUrl, apiKey, dataDir } = await findEndpoint(config);
  if (apiKey === undefined) {
    const found = await keyFileState(dataDir);
    throw new TorporError('unauthorized', `No API key is set, and ${found}.`, {
      remedy:
        'Start Torpor with `npm start`, log in with `torpor login`, or set TORPOR_API_URL and TORPOR_API_KEY to those of a running server. Only root can read the key in a data directory.',
    });
  }
  // Loaded here, because help and versions do not need it.
  const { Torpor } = await import('@torpor/sdk');
  return new Torpor({ apiUrl, apiKey, traceHeaders: traceHeadersOf(io) });
}

/** The trace that the command is a part of: https://opentelemetry.io/docs/specs/otel/context/env-carriers/ */
function traceHeadersOf({ env: { TRACEPARENT: traceparent, TRACESTATE: tracestate = '' } }: Io) {
  if (traceparent === undefined || !/^[\da-f]{2}(-[\da-f]+){3}$/.test(traceparent))
    return undefined;
  const state = /^[\x21-\x7e]+$/.test(tracestate) ? tracestate : undefined;
  return () => ({ traceparent, tracestate: state });
}

/** A client of the API for requests that need no credentials. */
export async function connectWithoutCredentials(io: Io, options: CommonOptions): Promise<Torpor> {
  const { apiUrl } = await findEndpoint(await readConfig(io, options));
  const { Torpor } = await import('@torpor/sdk');
  return new Torpor({ apiUrl });
}

/** The session that was begun with `torpor login`, if the settings name no key and no other server. */
async function sessionFor(io: Io, { apiUrl, apiKey }: Config): Promise<StoredSession | undefined> {
  if (apiKey !== undefined) return undefined;
  const session = await readSession(io);
  const isMeant =
    apiUrl === undefined || URL.parse(apiUrl)?.href === URL.parse(session?.apiUrl ?? '')?.href;
  return isMeant ? session : undefined;
}

/** Why there is no key from the data directory. */
async function keyFileState(dataDir: string): Promise<string> {
  try {
    await access(join(dataDir, 'credentials.json'), constants.R_OK);
    return `the one in ${dataDir} is damaged`;
  } catch (error) {
    const denied = error instanceof Error && 'code' in error && error.code === 'EACCES';
    return denied ? `you are not allowed to read the one in ${dataDir}` : `${dataDir} has none`;
  }
}

async function localUrl(dataDir: string): Promise<string | undefined> {
  return stringField(await readJson(join(dataDir, 'run', 'api.json')), 'url');
}

async function localKey(dataDir: string): Promise<string | undefined> {
  return stringField(await readJson(join(dataDir, 'credentials.json')), 'api_key');
}

function stringField(value: unknown, name: string): string | undefined {
  if (typeof value !== 'object' || value === null || !(name in value)) return undefined;
  const field: unknown = (value as Record<string, unknown>)[name];
  return typeof field === 'string' ? field : undefined;
}

/** Undefined if the file is missing, unreadable for this user, or being replaced. */
async function readJson(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, 'utf8'));
  } catch {
    return undefined;
  }
}
