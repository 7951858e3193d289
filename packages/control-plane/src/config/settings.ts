import { type Setting, type SettingWithDefault, setting, withDefault } from './setting.ts';
import { domains, label, mailAddress, providerUrl, smtpUrl } from './sign-in-values.ts';
import { TRACING_SETTINGS } from './tracing-settings.ts';
import {
  choice,
  DEFAULT_QUOTAS,
  duration,
  durationWithin,
  formatDuration,
  formatQuotas,
  hostAndPort,
  hostName,
  httpsUrl,
  httpUrl,
  integer,
  key,
  networks,
  parsePostgresUrl,
  parseQuotas,
  path,
  postgresUrl,
  program,
  secretKey,
  truth,
  webUrl,
} from './values.ts';

export type { Setting } from './setting.ts';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;

/** How much of a program is in the audit log. */
const EXEC_AUDITS = ['off', 'program', 'command'] as const;

export type ExecAuditLevel = (typeof EXEC_AUDITS)[number];
/** For persistent state of system programs; hier(7). */
const DEFAULT_DATA_DIR = '/var/lib/torpor';
const MAX_PORT = 65_535;

/**
 * Every setting of Torpor's server and command line, by its name in the program. The order is
 * that of `torpor config` and of docs/configuration.md.
 */
export const SETTINGS = {
  dataDir: withDefault({
    name: 'data_dir',
    variable: 'TORPOR_DATA_DIR',
    flag: '--data-dir',
    meaning: 'everything that must be kept',
    parse: path,
    defaultValue: DEFAULT_DATA_DIR,
  }),
  cacheDir: setting({
    name: 'cache_dir',
    variable: 'TORPOR_CACHE_DIR',
    meaning: 'kernels and images, which can be built again',
    parse: path,
    unset: 'the data directory',
  }),
  host: withDefault({
    name: 'host',
    variable: 'TORPOR_HOST',
    flag: '--host',
    meaning: 'address that the API listens on',
    parse: hostName,
    defaultValue: '127.0.0.1',
  }),
  port: withDefault({
    name: 'port',
    variable: 'TORPOR_PORT',
    flag: '--port',
    meaning: 'port of the API; 0 picks a free one',
    parse: integer(0, MAX_PORT),
    defaultValue: 7070,
  }),
  acceptAgents: withDefault({
    name: 'accept_agents',
    variable: 'TORPOR_ACCEPT_AGENTS',
    flag: '--accept-agents',
    meaning:
      'whether other machines can become hosts of a `torpor up`; of a `control-plane` always',
    parse: truth,
    defaultValue: false,
  }),
  agentPort: withDefault({
    name: 'agent_port',
    variable: 'TORPOR_AGENT_PORT',
    flag: '--agent-port',
    meaning: 'port on which the server listens for agents, on every address; 0 picks a free one',
    parse: integer(0, MAX_PORT),
    defaultValue: 7071,
  }),
  agentUrl: setting({
    name: 'agent_url',
    variable: 'TORPOR_AGENT_URL',
    meaning: 'where agents find the control plane: `https://torpor.example.com:7071`',
    parse: httpsUrl,
    unset: 'the name of the machine and `agent_port`',
  }),
  hostPort: withDefault({
    name: 'host_port',
    variable: 'TORPOR_HOST_PORT',
    flag: '--host-port',
    meaning:
      'port on which `torpor agent` listens for control planes, on every address; 0 picks a free one',
    parse: integer(0, MAX_PORT),
    defaultValue: 7072,
  }),
  hostAddress: setting({
    name: 'host_address',
    variable: 'TORPOR_HOST_ADDRESS',
    flag: '--host-address',
    meaning: 'where control planes reach the agent: `10.0.0.7:7072`',
    parse: hostAndPort,
    unset: 'the address that its heartbeats come from, and `host_port`',
  }),
  databaseUrl: setting({
    name: 'database_url',
    variable: 'DATABASE_URL',
    meaning: 'a PostgreSQL to use instead of the embedded one',
    parse: postgresUrl,
    show: withoutPassword,
    secret: true,
    unset: 'the embedded PostgreSQL',
  }),
  apiUrl: setting({
    name: 'api_url',
    variable: 'TORPOR_API_URL',
    flag: '--api-url',
    meaning: 'where clients find the API',
    parse: httpUrl,
    unset: 'that of the server of the data directory',
  }),
  apiKey: setting({
    name: 'api_key',
    variable: 'TORPOR_API_KEY',
    flag: '--api-key',
    meaning: 'key of the API',
    parse: key,
    show: () => undefined,
    secret: true,
    unset: 'the one in the data directory',
  }),
  secretKey: setting({
    name: 'secret_key',
    variable: 'TORPOR_SECRET_KEY',
    meaning:
      'encrypts secrets in the database: 32 bytes in base64; the same for all servers on one database',
    parse: secretKey,
    show: () => undefined,
    secret: true,
    unset: 'the one in the data directory',
  }),
  vcpuOvercommit: setting({
    name: 'vcpu_overcommit',
    variable: 'TORPOR_VCPU_OVERCOMMIT',
    meaning: 'how many vCPUs of running sandboxes there may be for each processor of a host',
    parse: integer(1, 1024),
    unset: 'any number',
  }),
  webhookNetworks: setting({
    name: 'webhook_networks',
    variable: 'TORPOR_WEBHOOK_NETWORKS',
    meaning: 'networks besides the public internet that webhooks may call: `10.0.0.0/8,fd00::/8`',
    parse: networks,
    unset: 'none',
  }),
  publicUrl: setting({
    name: 'public_url',
    variable: 'TORPOR_PUBLIC_URL',
    meaning: 'where browsers find the server: `https://torpor.example.com`',
    parse: webUrl,
    unset: 'the host name of the request',
  }),
  trustedProxies: setting({
    name: 'trusted_proxies',
    variable: 'TORPOR_TRUSTED_PROXIES',
    meaning: 'networks of proxies whose `X-Forwarded-For` is believed: `10.0.0.0/8`',
    parse: networks,
    unset: 'none',
  }),
  signUp: withDefault({
    name: 'sign_up',
    variable: 'TORPOR_SIGN_UP',
    meaning: 'whether everyone can make an account, and not only those who are invited',
    parse: truth,
    defaultValue: false,
  }),
  signUpDomains: setting({
    name: 'sign_up_domains',
    variable: 'TORPOR_SIGN_UP_DOMAINS',
    meaning:
      'whose owners of email addresses can make an account with GitHub or OIDC even if `sign_up` is false: `example.com,example.org`',
    parse: domains,
    unset: 'none',
  }),
  githubClientId: setting({
    name: 'github_client_id',
    variable: 'TORPOR_GITHUB_CLIENT_ID',
    meaning: 'of the OAuth app with which users log in with GitHub',
    parse: key,
    unset: 'no login with GitHub',
  }),
  githubClientSecret: setting({
    name: 'github_client_secret',
    variable: 'TORPOR_GITHUB_CLIENT_SECRET',
    meaning: 'its secret',
    parse: key,
    show: () => undefined,
    secret: true,
    unset: 'no login with GitHub',
  }),
  githubUrl: withDefault({
    name: 'github_url',
    variable: 'TORPOR_GITHUB_URL',
    meaning: 'GitHub, or a GitHub Enterprise Server',
    parse: providerUrl,
    defaultValue: 'https://github.com',
  }),
  oidcIssuer: setting({
    name: 'oidc_issuer',
    variable: 'TORPOR_OIDC_ISSUER',
    meaning: 'a provider of OpenID Connect with which users log in: `https://id.example.com`',
    parse: providerUrl,
    unset: 'no login with OIDC',
  }),
  oidcClientId: setting({
    name: 'oidc_client_id',
    variable: 'TORPOR_OIDC_CLIENT_ID',
    meaning: 'of this server at the provider',
    parse: key,
    unset: 'no login with OIDC',
  }),
  oidcClientSecret: setting({
    name: 'oidc_client_secret',
    variable: 'TORPOR_OIDC_CLIENT_SECRET',
    meaning: 'its secret',
    parse: key,
    show: () => undefined,
    secret: true,
    unset: 'no login with OIDC',
  }),
  oidcName: withDefault({
    name: 'oidc_name',
    variable: 'TORPOR_OIDC_NAME',
    meaning: 'how users call the provider',
    parse: label,
    defaultValue: 'single sign-on',
  }),
  smtpUrl: setting({
    name: 'smtp_url',
    variable: 'TORPOR_SMTP_URL',
    meaning:
      'a mail server, `smtps://` or `smtp://`; the latter with STARTTLS, without which no password is sent: `smtp://user:password@mail.example.com:587`',
    parse: smtpUrl,
    show: withoutPassword,
    secret: true,
    unset: 'no mail is sent',
  }),
  mailFrom: setting({
    name: 'mail_from',
    variable: 'TORPOR_MAIL_FROM',
    meaning: 'the sender of mail: `Torpor <torpor@example.com>`',
    parse: mailAddress,
    unset: 'no mail is sent',
  }),
  teamQuotas: withDefault({
    name: 'team_quotas',
    variable: 'TORPOR_TEAM_QUOTAS',
    meaning:
      'what a team may have, except the first, which has no limits: `running_sandboxes=50,disk_mb=unlimited`; what is not named is as by default',
    parse: (text) => formatQuotas(parseQuotas(text)),
    defaultValue: formatQuotas(DEFAULT_QUOTAS),
  }),
  teamsPerUser: withDefault({
    name: 'teams_per_user',
    variable: 'TORPOR_TEAMS_PER_USER',
    meaning: 'how many teams a user may own, who is no operator of the platform',
    parse: integer(1, 1_000_000),
    defaultValue: 10,
  }),
  accelerator: withDefault({
    name: 'accelerator',
    variable: 'TORPOR_ACCELERATOR',
    meaning: '`kvm`, `tcg` (emulation), or `auto`: the faster one',
    parse: choice('kvm', 'tcg', 'auto'),
    defaultValue: 'auto',
  }),
  vmm: withDefault({
    name: 'vmm',
    variable: 'TORPOR_VMM',
    meaning: '`qemu`, `firecracker`, or `auto`: Firecracker if it can run',
    parse: choice('qemu', 'firecracker', 'auto'),
    defaultValue: 'auto',
  }),
  qemu: setting({
    name: 'qemu',
    variable: 'TORPOR_QEMU',
    meaning: 'path of QEMU',
    parse: program,
    unset: 'the one on the PATH',
  }),
  firecracker: setting({
    name: 'firecracker',
    variable: 'TORPOR_FIRECRACKER',
    meaning: 'path of Firecracker',
    parse: program,
    unset: 'the one on the PATH',
  }),
  jailer: setting({
    name: 'jailer',
    variable: 'TORPOR_JAILER',
    meaning: "path of Firecracker's jailer, which is optional",
    parse: program,
    unset: 'the one beside Firecracker or on the PATH',
  }),
  guestTimeoutMs: withDefault({
    name: 'guest_timeout',
    variable: 'TORPOR_GUEST_TIMEOUT',
    flag: '--guest-timeout',
    meaning: 'how long a guest may take to respond when it boots or resumes',
    parse: durationWithin('100ms', '1h'),
    show: formatDuration,
    // Under emulation on a loaded machine a boot takes tens of seconds.
    defaultValue: 120_000,
  }),
  keepStoppedMs: withDefault({
    name: 'keep_stopped',
    variable: 'TORPOR_KEEP_STOPPED',
    meaning: 'how long destroyed sandboxes stay listed',
    parse: duration,
    show: formatDuration,
    defaultValue: 7 * 24 * 3_600_000,
  }),
  keepAuditMs: withDefault({
    name: 'keep_audit',
    variable: 'TORPOR_KEEP_AUDIT',
    meaning: 'how long the audit log keeps its entries',
    parse: duration,
    show: formatDuration,
    defaultValue: 365 * 24 * 3_600_000,
  }),
  auditExec: withDefault({
    name: 'audit_exec',
    variable: 'TORPOR_AUDIT_EXEC',
    meaning:
      'what the audit log has of the programs that are started in sandboxes: `off`, `program` (its name), or `command` (its arguments too, which may have secrets)',
    parse: choice(...EXEC_AUDITS),
    defaultValue: 'program',
  }),
  logLevel: setting({
    name: 'log_level',
    variable: 'TORPOR_LOG_LEVEL',
    meaning: `what is logged: \`${LOG_LEVELS.join('`, `')}\``,
    parse: choice(...LOG_LEVELS),
    unset: 'info; warn on a terminal',
  }),
  debug: withDefault({
    name: 'debug',
    variable: 'TORPOR_DEBUG',
    meaning: 'whether an internal error is printed with its stack',
    parse: truth,
    defaultValue: false,
  }),
  ...TRACING_SETTINGS,
} as const;

export type SettingKey = keyof typeof SETTINGS;

type ValueOf<S> =
  S extends SettingWithDefault<infer T> ? T : S extends Setting<infer T> ? T | undefined : never;

/** The values of all settings. Times are in milliseconds. */
export type SettingValues = { readonly [K in SettingKey]: ValueOf<(typeof SETTINGS)[K]> };

/** All places where a setting can be given, as a phrase. */
export function placesOf({ flag, variable, name }: Setting<unknown>): string {
  const places = flag === undefined ? variable : `${flag}, ${variable}`;
  return `${places} or ${name} in torpor.toml`;
}

/** The URL of a database or a mail server without its password. */
function withoutPassword(text: string): string | undefined {
  const url = parsePostgresUrl(text);
  if (url === null) return undefined;
  if (url.password !== '') url.password = '***';
  for (const name of url.searchParams.keys()) {
    if (/pass|secret|token|key/i.test(name)) url.searchParams.set(name, '***');
  }
  return text.includes('@/') ? url.href.replace('@socket/', '@/') : url.href;
}
