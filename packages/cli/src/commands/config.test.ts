import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SETTINGS } from '@torpor/control-plane/config';
import { cli } from '@torpor/testkit/cli';
import { afterEach, beforeEach, expect, test } from 'vitest';

let dataDir: string;

beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'torpor-config-'));
});
afterEach(() => rm(dataDir, { recursive: true }));

const SECRETS = ['s3cret-password', 'tpr_s3cret-key', `${'s3cret'.repeat(7)}A=`];

const env = () => ({
  TORPOR_DATA_DIR: dataDir,
  TORPOR_API_KEY: SECRETS[1] ?? '',
  TORPOR_SECRET_KEY: SECRETS[2] ?? '',
  DATABASE_URL: `postgres://torpor:${SECRETS[0]}@db/torpor`,
  OTEL_EXPORTER_OTLP_ENDPOINT: `http://torpor:${SECRETS[0]}@collector:4318`,
  OTEL_EXPORTER_OTLP_HEADERS: `api-key=${SECRETS[0]}`,
});

/** The cells of a table's lines, by the first cell. */
function cells(table: string): Record<string, string[]> {
  const rows = table.split('\n').map((line) => line.split(/ {2,}/));
  return Object.fromEntries(rows.map(([name = '', ...others]) => [name, others]));
}

test('every setting is listed with its value and its origin', async () => {
  const file = join(dataDir, 'torpor.toml');
  await writeFile(file, 'port = 8080\nguest_timeout = "300"\nqemu = "bin/qemu"\n');
  const { stdout, exitCode } = await cli(['config', '--api-url', 'http://h:1'], { env: env() });
  expect(exitCode).toBe(0);
  const rows = cells(stdout);
  const given: Record<string, readonly [string, string]> = {
    data_dir: [dataDir, 'TORPOR_DATA_DIR'],
    port: ['8080', file],
    database_url: ['postgres://torpor:***@db/torpor', 'DATABASE_URL'],
    api_url: ['http://h:1', '--api-url'],
    api_key: ['(not shown)', 'TORPOR_API_KEY'],
    secret_key: ['(not shown)', 'TORPOR_SECRET_KEY'],
    qemu: [join(dataDir, 'bin/qemu'), file],
    guest_timeout: ['5m', file],
    otlp_endpoint: ['http://collector:4318/', 'OTEL_EXPORTER_OTLP_ENDPOINT'],
    otlp_headers: ['(not shown)', 'OTEL_EXPORTER_OTLP_HEADERS'],
  };
  expect(rows).toMatchObject({
    ...given,
    cache_dir: ['(the data directory)', 'default'],
    host: ['127.0.0.1', 'default'],
    accept_agents: ['false', 'default'],
    team_quotas: [SETTINGS.teamQuotas.defaultValue, 'default'],
    keep_stopped: ['7d', 'default'],
    log_level: ['(info; warn on a terminal)', 'default'],
  });
  const others = Object.values(SETTINGS).filter(({ name }) => !(name in given));
  for (const { name } of others) expect(rows[name], name).toEqual([expect.any(String), 'default']);
  expect(stdout).toContain(`Configuration file: ${file}\n`);
  for (const secret of SECRETS) expect(stdout).not.toContain(secret);
});

test('also with --json, for programs', async () => {
  const { stdout, exitCode } = await cli(['config', '--json'], { env: env() });
  expect(exitCode).toBe(0);
  const { file, settings } = JSON.parse(stdout);
  expect(file).toEqual({ path: join(dataDir, 'torpor.toml'), read: false });
  expect(settings.map(({ name }: { name: string }) => name)).toEqual(
    Object.values(SETTINGS).map(({ name }) => name),
  );
  const port = settings.find(({ name }: { name: string }) => name === 'port');
  expect(port).toMatchObject({ value: 7070, origin: 'default', variable: 'TORPOR_PORT' });
  const key = settings.find(({ name }: { name: string }) => name === 'api_key');
  expect(key).toMatchObject({
    value: null,
    secret: true,
    origin: 'environment',
    given_by: 'TORPOR_API_KEY',
  });
  for (const secret of SECRETS) expect(stdout).not.toContain(secret);
});

test.each([['config'], ['ls'], ['up'], ['env'], ['doctor'], ['image', 'ls'], ['image']])(
  'torpor %s %s refuses a file with an unknown setting, and suggests the nearest one',
  async (...command) => {
    await writeFile(join(dataDir, 'torpor.toml'), 'prot = 8080\n');
    const { stdout, stderr, exitCode } = await cli(command, { env: env() });
    expect([exitCode, stdout]).toEqual([2, '']);
    expect(stderr).toContain(`prot in ${join(dataDir, 'torpor.toml')} is not a setting.`);
    expect(stderr).toContain('Did you mean port?');
  },
);

test.each([['config'], ['ls'], ['up'], ['env'], ['image', 'ls']])(
  'torpor %s %s refuses a setting that has an invalid value, and starts nothing',
  async (...command) => {
    const invalid = { ...env(), DATABASE_URL: 'nonsense' };
    const { stdout, stderr, exitCode } = await cli(command, { env: invalid });
    expect([exitCode, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/^torpor: DATABASE_URL is not valid\.\n {2}→ It must be a URL/);
  },
);

test.each([
  ['up', '--host', 'bogus host'],
  ['ls', '--api-url', 'foo'],
])('torpor %s %s %j names the option', async (command, option, value) => {
  const { stderr, exitCode } = await cli([command, option, value], { env: env() });
  expect(exitCode).toBe(2);
  expect(stderr).toContain(`torpor: ${option} has the invalid value "${value}".`);
});

test('a file that --config names sets the address of the server', async () => {
  const file = join(dataDir, 'other.toml');
  await writeFile(file, `data_dir = "."\nport = 1234\napi_key = "tpr_1"\n`);
  const { stdout, exitCode } = await cli(['env', '--json', '--config', file], { env: {} });
  expect(exitCode).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({
    TORPOR_API_URL: 'http://127.0.0.1:1234',
    TORPOR_API_KEY: 'tpr_1',
    TORPOR_DATA_DIR: dataDir,
  });
});
