import type { CliContext } from '../cli-context.ts';

type Register = (cli: CliContext, args: readonly string[]) => void;

interface CommandEntry {
  readonly name: string;
  readonly alias?: string;
  /** Loads the command's code, and returns the function that registers it with commander. */
  readonly load: () => Promise<Register>;
}

/** All commands, in the order of the help. */
const COMMANDS: readonly CommandEntry[] = [
  { name: 'up', load: async () => (await import('./up.ts')).registerUp },
  {
    name: 'control-plane',
    load: async () => (await import('./control-plane.ts')).registerControlPlane,
  },
  { name: 'agent', load: async () => (await import('./agent.ts')).registerAgent },
  { name: 'setup', load: async () => (await import('./setup.ts')).registerSetup },
  { name: 'doctor', load: async () => (await import('./doctor.ts')).registerDoctor },
  { name: 'config', load: async () => (await import('./config.ts')).registerConfig },
  { name: 'env', load: async () => (await import('./env.ts')).registerEnv },
  { name: 'node', load: async () => (await import('./node.ts')).registerNode },
  { name: 'run', load: async () => (await import('./run.ts')).registerRun },
  { name: 'create', load: async () => (await import('./create.ts')).registerCreate },
  { name: 'ls', alias: 'list', load: async () => (await import('./ls.ts')).registerLs },
  { name: 'info', load: async () => (await import('./info.ts')).registerInfo },
  { name: 'exec', load: async () => (await import('./exec.ts')).registerExec },
  { name: 'shell', load: async () => (await import('./shell.ts')).registerShell },
  { name: 'cp', load: async () => (await import('./cp.ts')).registerCp },
  { name: 'forward', load: async () => (await import('./forward.ts')).registerForward },
  { name: 'ps', load: async () => (await import('./ps.ts')).registerPs },
  { name: 'kill', load: async () => (await import('./kill.ts')).registerKill },
  { name: 'logs', load: async () => (await import('./logs.ts')).registerLogs },
  { name: 'pause', load: async () => (await import('./pause.ts')).registerPause },
  { name: 'resume', load: async () => (await import('./pause.ts')).registerResume },
  { name: 'fork', load: async () => (await import('./pause.ts')).registerFork },
  { name: 'snapshot', load: async () => (await import('./snapshot.ts')).registerSnapshot },
  { name: 'templates', load: async () => (await import('./snapshot.ts')).registerTemplates },
  { name: 'rm', load: async () => (await import('./rm.ts')).registerRm },
  { name: 'image', load: async () => (await import('./image.ts')).registerImage },
  { name: 'builds', load: async () => (await import('./builds.ts')).registerBuilds },
  { name: 'host', load: async () => (await import('./host.ts')).registerHost },
  { name: 'login', load: async () => (await import('./login.ts')).registerLogin },
  { name: 'join', load: async () => (await import('./login.ts')).registerJoin },
  { name: 'logout', load: async () => (await import('./login.ts')).registerLogout },
  { name: 'whoami', load: async () => (await import('./login.ts')).registerWhoami },
  { name: 'account', load: async () => (await import('./account.ts')).registerAccount },
  { name: 'team', load: async () => (await import('./team.ts')).registerTeam },
  { name: 'user', load: async () => (await import('./user.ts')).registerUser },
  { name: 'key', load: async () => (await import('./key.ts')).registerKey },
  { name: 'audit', load: async () => (await import('./audit.ts')).registerAudit },
  { name: 'events', load: async () => (await import('./events.ts')).registerEvents },
  { name: 'usage', load: async () => (await import('./usage.ts')).registerUsage },
  { name: 'quota', load: async () => (await import('./quota.ts')).registerQuota },
  { name: 'webhook', load: async () => (await import('./webhook.ts')).registerWebhook },
];

const VERSION_OPTIONS = ['-V', '--version'];

/**
 * Loads and registers only the command that the command line names, or all of them if it names
 * no known one, for the help and for suggestions.
 */
export async function registerCommands(cli: CliContext, args: readonly string[]): Promise<void> {
  const [first = ''] = args;
  if (VERSION_OPTIONS.includes(first)) return;
  const named = COMMANDS.filter(({ name, alias }) => name === first || alias === first);
  for (const { load } of named.length > 0 ? named : COMMANDS) (await load())(cli, args);
}
