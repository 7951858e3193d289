import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type ConfigSources, loadConfig } from './config.ts';
import { SETTINGS, type SettingKey } from './settings.ts';

let dataDir: string;

beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'torpor-config-'));
});
afterEach(() => rm(dataDir, { recursive: true }));

async function file(text: string, name = 'torpor.toml'): Promise<string> {
  const path = join(dataDir, name);
  await writeFile(path, text);
  return path;
}

function load({ env, ...sources }: Partial<ConfigSources> = {}) {
  return loadConfig({ ...sources, env: { TORPOR_DATA_DIR: dataDir, ...env } });
}

async function entry(key: SettingKey, sources: Partial<ConfigSources> = {}) {
  const { entries } = await load(sources);
  return entries.find(({ name }) => name === SETTINGS[key].name);
}

/** A value for every setting: as it is written, and as it is parsed. */
const EVERY_SETTING: Record<Exclude<SettingKey, 'dataDir'>, [string, unknown]> = {
  cacheDir: ['/cache', '/cache'],
  host: ['0.0.0.0', '0.0.0.0'],
  port: ['8080', 8080],
  acceptAgents: ['true', true],
  agentPort: ['0', 0],
  agentUrl: ['https://torpor.example.com', 'https://torpor.example.com'],
  hostPort: ['7082', 7082],
  hostAddress: ['[fd00::7]:7072', '[fd00::7]:7072'],
  databaseUrl: ['postgres://u:p@db/torpor', 'postgres://u:p@db/torpor'],
  apiUrl: ['http://10.0.0.1:7070', 'http://10.0.0.1:7070'],
  apiKey: ['tpr_0', 'tpr_0'],
  secretKey: [`${'A'.repeat(43)}=`, `${'A'.repeat(43)}=`],
  vcpuOvercommit: ['8', 8],
  webhookNetworks: ['10.0.0.0/8,fd00::/8', '10.0.0.0/8,fd00::/8'],
  publicUrl: ['https://torpor.test', 'https://torpor.test'],
  trustedProxies: ['10.0.0.0/8', '10.0.0.0/8'],
  signUp: ['true', true],
  signUpDomains: ['Example.com,example.org', 'example.com,example.org'],
  githubClientId: ['Iv1.0', 'Iv1.0'],
  githubClientSecret: ['s3cret', 's3cret'],
  githubUrl: ['https://github.example.com/', 'https://github.example.com'],
  oidcIssuer: ['https://id.example.com/realms/a', 'https://id.example.com/realms/a'],
  oidcClientId: ['torpor', 'torpor'],
  oidcClientSecret: ['s3cret', 's3cret'],
  oidcName: ['Acme', 'Acme'],
  smtpUrl: ['smtps://u:p@mail.example.com', 'smtps://u:p@mail.example.com'],
  mailFrom: ['Torpor <t@example.com>', 'Torpor <t@example.com>'],
  teamQuotas: [
    'vcpus=8,disk_mb=unlimited',
    'running_sandboxes=20,vcpus=8,memory_mb=40960,disk_mb=unlimited,snapshots=100,api_keys=100,webhooks=20',
  ],
  teamsPerUser: ['3', 3],
  accelerator: ['tcg', 'tcg'],
  vmm: ['qemu', 'qemu'],
  qemu: ['/opt/qemu', '/opt/qemu'],
  firecracker: ['firecracker', 'firecracker'],
  jailer: ['/opt/jailer', '/opt/jailer'],
  guestTimeoutMs: ['5m', 300_000],
  keepStoppedMs: ['90', 90_000],
  keepAuditMs: ['30d', 30 * 86_400_000],
  auditExec: ['command', 'command'],
  logLevel: ['debug', 'debug'],
  debug: ['true', true],
  otlpEndpoint: ['http://127.0.0.1:4318', 'http://127.0.0.1:4318'],
  otlpTracesEndpoint: ['https://c.example/x', 'https://c.example/x'],
  otlpHeaders: ['api-key=%3D', 'api-key=%3D'],
  otlpProtocol: ['http/json', 'http/json'],
  tracesExporter: ['none', 'none'],
  tracesSampler: ['traceidratio', 'traceidratio'],
  tracesSamplerArgument: ['0.1', '0.1'],
  serviceName: ['sandboxes', 'sandboxes'],
  openTelemetryDisabled: ['true', 'true'],
};

describe('where a value comes from', () => {
  test.each(Object.entries(EVERY_SETTING))(
    '%s: environment and file',
    async (name, [text, value]) => {
      const key = name as keyof typeof EVERY_SETTING;
      const byVariable = await load({ env: { [SETTINGS[key].variable]: text } });
      expect(byVariable.config[key]).toBe(value);
      const path = await file(`${SETTINGS[key].name} = ${JSON.stringify(text)}`);
      expect((await load()).config[key]).toBe(value);
      expect((await entry(key))?.origin).toEqual({ kind: 'file', path });
    },
  );

  test('the command line overrides the environment, which overrides the file, which overrides the default', async () => {
    const origin = async (sources: Partial<ConfigSources> = {}) => {
      const { value, origin } = (await entry('port', sources)) ?? {};
      return [value, origin];
    };
    expect(await origin()).toEqual([7070, { kind: 'default' }]);
    const path = await file('port = 7071');
    expect(await origin()).toEqual([7071, { kind: 'file', path }]);
    const env = { TORPOR_PORT: '7072' };
    expect(await origin({ env })).toEqual([7072, { kind: 'environment', name: 'TORPOR_PORT' }]);
    const flags = { port: 7073 };
    expect(await origin({ env, flags })).toEqual([7073, { kind: 'flag', name: '--port' }]);
    expect(await origin({ env: { TORPOR_PORT: '' } })).toEqual([7071, { kind: 'file', path }]);
  });

  test('a setting that is not set has its default; that of the cache is in the data directory', async () => {
    const { config } = await load();
    expect(config).toMatchObject({
      dataDir,
      cacheDir: dataDir,
      host: '127.0.0.1',
      port: 7070,
      accelerator: 'auto',
      vmm: 'auto',
      guestTimeoutMs: 120_000,
      keepStoppedMs: 604_800_000,
      debug: false,
    });
    expect(config.databaseUrl).toBeUndefined();
    expect(config.logLevel).toBeUndefined();
    expect((await loadConfig({ env: {} })).config.dataDir).toBe('/var/lib/torpor');
  });

  test('relative paths are relative to the file, or to the working directory of the command', async () => {
    await file('cache_dir = "cache"\nqemu = "bin/qemu"\nfirecracker = "firecracker"');
    const { config } = await load({ env: { TORPOR_JAILER: './jailer' } });
    expect(config).toMatchObject({
      cacheDir: join(dataDir, 'cache'),
      qemu: join(dataDir, 'bin/qemu'),
      firecracker: 'firecracker',
      jailer: join(process.cwd(), 'jailer'),
    });
  });
});

describe('the file', () => {
  test('is named by the command line, else by the environment, and may name the data directory', async () => {
    const other = await file('data_dir = "other"', 'other.toml');
    const named = await loadConfig({ env: {}, configFile: other });
    expect(named.file).toMatchObject({ path: other, state: 'read' });
    expect(named.config.dataDir).toBe(join(dataDir, 'other'));
    expect(named.config.cacheDir).toBe(join(dataDir, 'other'));
    const byVariable = await loadConfig({ env: { TORPOR_CONFIG: other } });
    expect(byVariable.config.dataDir).toBe(join(dataDir, 'other'));
  });

  test('of the data directory need not exist, a named one must', async () => {
    expect((await load()).file).toMatchObject({
      path: join(dataDir, 'torpor.toml'),
      state: 'missing',
    });
    await expect(load({ configFile: join(dataDir, 'none.toml') })).rejects.toMatchObject({
      code: 'invalid_request',
      message: expect.stringContaining(join(dataDir, 'none.toml')),
      remedy: expect.stringContaining('--config'),
    });
    await expect(load({ env: { TORPOR_CONFIG: '/nowhere/torpor.toml' } })).rejects.toMatchObject({
      remedy: expect.stringContaining('TORPOR_CONFIG'),
    });
  });

  test.each([
    ['prot = 1', /^prot in .*torpor\.toml is not a setting\.$/, /Did you mean port\?/],
    ['TORPOR_VMM = "qemu"', /^TORPOR_VMM in/, /Did you mean vmm\?/],
    ['guest-timeout = "5m"', /^guest-timeout in/, /Did you mean guest_timeout\?/],
    ['keep_stoped = "5m"', /^keep_stoped in/, /Did you mean keep_stopped\?/],
    ['colour = "red"', /^colour in/, /^`torpor config` lists/],
    ['[server]\nport = 7070', /^server in/, /^`torpor config` lists/],
    ['port = [7070]', /^port in .* is not a single value/, /a string, a number/],
    ['port = 1979-05-27', /^port in .* is not a single value/, /a string, a number/],
    [
      'port = "many"',
      /^port in .*torpor\.toml has the invalid value "many"\.$/,
      /a whole number from 0 to 65535/,
    ],
    ['port = 7070.5', /^port in .* has the invalid value "7070.5"\.$/, /a whole number/],
    ['vmm = ""', /^vmm in .* has the invalid value ""\.$/, /must not be empty/],
    ['debug = "perhaps"', /^debug in .* has the invalid value "perhaps"\.$/, /true or false/],
    ['data_dir = "/elsewhere"', /^data_dir in .* cannot name/, /TORPOR_DATA_DIR or --data-dir/],
    ['vmm = "qemu"\nport 7070', /not valid TOML: .*torpor\.toml, line 2: /, /port = 7070/],
  ])('is refused with %j', async (text, message, remedy) => {
    await file(text);
    await expect(load()).rejects.toMatchObject({
      code: 'invalid_request',
      message: expect.stringMatching(message),
      remedy: expect.stringMatching(remedy),
    });
  });
});

test.each([
  ['TORPOR_VMM', 'xen', 'It must be qemu, firecracker or auto.'],
  ['TORPOR_ACCELERATOR', 'hvf', 'It must be kvm, tcg or auto.'],
  ['TORPOR_LOG_LEVEL', 'loud', /^It must be trace, .* or silent\.$/],
  ['TORPOR_GUEST_TIMEOUT', '2h', 'It must be a time from 100ms to 1h.'],
  ['TORPOR_KEEP_STOPPED', 'long', 'It must be a time such as 30s, 5m or 2h.'],
  ['TORPOR_API_URL', 'foo', /starts with http/],
  ['TORPOR_API_URL', '10.0.0.1:7070', /starts with http/],
  ['TORPOR_API_URL', 'ftp://10.0.0.1', /starts with http/],
  ['TORPOR_HOST', 'bogus host', /IP address or a host name/],
  ['TORPOR_HOST', '10.0.0.999', /IP address or a host name/],
  ['TORPOR_HOST', '0.0.0.0:7070', /IP address or a host name/],
  ['TORPOR_HOST', '[::1]', /IP address or a host name/],
  ['TORPOR_HOST', 'http://localhost', /IP address or a host name/],
  ['TORPOR_HOST', '-h', /IP address or a host name/],
])('%s=%s names the variable and what it must be', async (variable, text, remedy) => {
  await expect(load({ env: { [variable]: text } })).rejects.toMatchObject({
    code: 'invalid_request',
    message: `${variable} has the invalid value "${text}".`,
    remedy: expect.stringMatching(remedy),
  });
});

test.each(['127.0.0.1', '::', 'fe80::1%eth0', 'localhost', 'torpor.example.com', 'db-1_a'])(
  'the API may listen on %s',
  async (host) => expect((await load({ env: { TORPOR_HOST: host } })).config.host).toBe(host),
);

test('an invalid value is refused wherever it is set, with the name of the place', async () => {
  const refusal = (message: unknown) => ({ code: 'invalid_request', message });
  await expect(load({ flags: { host: 'bogus host' } })).rejects.toMatchObject(
    refusal('--host has the invalid value "bogus host".'),
  );
  const path = await file('api_url = "foo"');
  await expect(load()).rejects.toMatchObject(
    refusal(`api_url in ${path} has the invalid value "foo".`),
  );
});

describe('a secret', () => {
  const secret = 's3cret';

  test.each([
    [`postgres://torpor:${secret}@db:5432/torpor`, 'postgres://torpor:***@db:5432/torpor'],
    [`postgres://db/torpor?user=u&password=${secret}`, 'postgres://db/torpor?user=u&password=***'],
    ['postgres://torpor@db/torpor', 'postgres://torpor@db/torpor'],
    [`postgres://u:${secret}@/db?host=/run/sockets`, 'postgres://u:***@/db?host=/run/sockets'],
    ['postgresql:///db?host=%2Frun&port=1', 'postgresql:///db?host=%2Frun&port=1'],
  ])('is not in what is shown of %s', async (url, shown) => {
    const { entries, config } = await load({ env: { DATABASE_URL: url, TORPOR_API_KEY: secret } });
    expect(config.databaseUrl).toBe(url);
    expect(entries.find(({ name }) => name === 'database_url')?.value).toBe(shown);
    expect(JSON.stringify(entries)).not.toContain(secret);
  });

  test.each([
    ['DATABASE_URL', 'nonsense'],
    ['DATABASE_URL', secret],
    ['DATABASE_URL', `host=db password=${secret}`],
    ['DATABASE_URL', `mysql://u:${secret}@db/torpor`],
    ['DATABASE_URL', `postgres://u:a/${secret}@db/torpor`],
    ['DATABASE_URL', `postgres://u:1/${secret}@db/torpor`],
    ['DATABASE_URL', `postgres://u:1?${secret}@db/torpor`],
    ['DATABASE_URL', `postgres://u:1#${secret}@db/torpor`],
    ['TORPOR_API_KEY', `${secret}\nx`],
    ['TORPOR_API_URL', `u:${secret}@h`],
  ])('is not in the error about %s=%j', async (variable, text) => {
    const error = await load({ env: { [variable]: text } }).catch((reason: unknown) => reason);
    expect(error).toMatchObject({
      code: 'invalid_request',
      message: `${variable} is not valid.`,
      remedy: expect.stringMatching(/^It must be /),
    });
    expect(JSON.stringify(error)).not.toContain(secret);
  });

  test('is not in the error about a value of the wrong type', async () => {
    await file(`api_key = ["${secret}"]`);
    const error = await load().catch((reason: Error) => reason);
    expect(String(error)).toContain('api_key');
    expect(String(error)).not.toContain(secret);
  });
});

test('times are shown as they can be written', async () => {
  const shown = async (text: string) =>
    (await entry('keepStoppedMs', { env: { TORPOR_KEEP_STOPPED: text } }))?.value;
  expect(await shown('90')).toBe('90s');
  expect(await shown('120')).toBe('2m');
  expect(await shown('48h')).toBe('2d');
  expect(await shown('1.5')).toBe('1500ms');
  expect(await shown('0')).toBe('0s');
});

test.each(['10.0.0.7', ':7072', 'a b:7072', 'https://a:7072', 'a:0', 'a:7072/x', 'fd00::7:99999'])(
  '%j is no address of an agent',
  async (text) => {
    await expect(load({ env: { TORPOR_HOST_ADDRESS: text } })).rejects.toMatchObject({
      code: 'invalid_request',
    });
  },
);

test.each(['a:443', 'Host.example:7072', '[fd00::7]:7072'])('%j is one', async (text) => {
  expect((await load({ env: { TORPOR_HOST_ADDRESS: text } })).config.hostAddress).toBe(text);
});
