import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { pino } from 'pino';
import { SecretBox } from '../auth/secret-box.ts';
import { DEFAULT_QUOTAS } from '../config/index.ts';
import { createContext } from '../context.ts';
import type { Database } from '../database/schema.ts';
import { openApiDocument } from '../http/openapi.ts';

/** Where the description of the API is kept under version control. */
export const OPENAPI_FILE = createRequire(import.meta.url).resolve(
  '@torpor/protocol/openapi/torpor.v1.json',
);

/** The OpenAPI description as it should be in {@link OPENAPI_FILE}. The application is composed, but connected to nothing. */
export async function renderOpenApi(): Promise<string> {
  const manifest = await readFile(new URL('../../package.json', import.meta.url), 'utf8');
  const { version } = JSON.parse(manifest) as { version: string };
  const { app, metrics } = createContext({
    db: new Kysely<Database>({ dialect: new PostgresDialect({ pool: new pg.Pool() }) }),
    joinUrl: () => undefined,
    onHostsChanged: () => undefined,
    secrets: new SecretBox(new Uint8Array(32)),
    webhookNetworks: [],
    web: { publicUrl: undefined, trustedProxies: [] },
    signUpOpen: false,
    teamsPerUser: 0,
    auditExec: 'off',
    mail: undefined,
    providers: {},
    signUpDomains: [],
    quotas: DEFAULT_QUOTAS,
    logger: pino({ level: 'silent' }),
    version,
  });
  metrics.close();
  return `${JSON.stringify(openApiDocument(app, version), null, 2)}\n`;
}
