import { type Config, SETTINGS } from '@torpor/control-plane/config';
import type { Command } from 'commander';
import { optionOf } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import { type CommonOptions, readConfig } from '../client/settings.ts';
import { type Io, json, line } from '../io.ts';
import { printStatus, progressStatus } from '../output/progress.ts';
import type { Platform } from '../platform/platform.ts';
import { prepareHost } from '../platform/prepare-host.ts';
import { StopRequest } from '../platform/stop-request.ts';
import { VERSION } from '../version.ts';

interface UpOptions extends CommonOptions {
  readonly host?: string;
  readonly port?: number;
  readonly acceptAgents?: boolean;
  readonly agentPort?: number;
  readonly setup?: boolean;
  readonly destroyAll?: boolean;
  readonly replaceSecretKey?: boolean;
  readonly guestTimeout?: number;
}

export function registerUp(cli: CliContext): void {
  cli
    .command('up', 'start the server: API, database and host agent in one process')
    .option(
      '-p, --port <n>',
      `port of the API; 0 picks a free one (TORPOR_PORT, default ${SETTINGS.port.defaultValue})`,
      optionOf(SETTINGS.port.parse),
    )
    .option(
      '--host <address>',
      `address to listen on (TORPOR_HOST, default ${SETTINGS.host.defaultValue})`,
    )
    .option(
      '--accept-agents',
      'let other machines become hosts of this server (TORPOR_ACCEPT_AGENTS, default false)',
    )
    .option(
      '--agent-port <n>',
      `port for their agents, on every address (TORPOR_AGENT_PORT, default ${SETTINGS.agentPort.defaultValue})`,
      optionOf(SETTINGS.agentPort.parse),
    )
    .option(
      '--replace-secret-key',
      'use another secret key than before: discards what the lost one encrypted',
    )
    .option('--setup', 'first install what this machine lacks')
    .option(
      '--guest-timeout <time>',
      'how long a guest may take to respond when it boots or resumes (TORPOR_GUEST_TIMEOUT, default 2m)',
      optionOf(SETTINGS.guestTimeoutMs.parse),
    )
    .option('--destroy-all', 'destroy all sandboxes when it stops, instead of leaving them running')
    .addHelpText(
      'after',
      `
With --json it prints one line on standard output when it is ready:
  {"event":"ready","api_url":"http://127.0.0.1:7070","data_dir":"/var/lib/torpor"}
and in it agent_url if other machines can join.
The log goes to standard error (TORPOR_LOG_LEVEL). SIGINT and SIGTERM stop it; sandboxes keep
running and are adopted by the next start. Every setting can also be given in the environment or
in torpor.toml; \`torpor config\` lists all settings with their values. On a slow or loaded host,
give guests longer to start with --guest-timeout (TORPOR_GUEST_TIMEOUT) and a time such as 5m.`,
    )
    .action(
      cli.action(async (options: UpOptions, _command: Command) => {
        const { io } = cli;
        const stop = new StopRequest(io);
        try {
          const config = await readConfig(io, options);
          const platform = await start(io, options, config, stop);
          try {
            await announce(io, options, platform, config);
            await stop.requested;
            printStatus(
              io,
              options.destroyAll ? 'destroying all sandboxes' : 'stopping; sandboxes keep running',
            );
          } finally {
            await platform.close({ destroyAll: options.destroyAll === true });
          }
        } finally {
          stop.dispose();
        }
      }),
    );
}

async function start(
  io: Io,
  options: UpOptions,
  config: Config,
  stop: StopRequest,
): Promise<Platform> {
  await prepareHost(io, config, options);
  // Loaded here, because most commands do not need the server's code.
  const { createLogger } = await import('../platform/logger.ts');
  const { Platform } = await import('../platform/platform.ts');
  return Platform.start({
    config,
    version: VERSION,
    logger: createLogger(io, { asJson: options.json === true, level: config.logLevel }),
    replaceSecretKey: options.replaceSecretKey,
    onProgress: progressStatus(io),
    onTerminate: () => stop.request(),
  });
}

async function announce(
  io: Io,
  options: UpOptions,
  { apiUrl, agentUrl, accelerator }: Platform,
  { dataDir }: Config,
): Promise<void> {
  if (options.json) {
    return json(io, { event: 'ready', api_url: apiUrl, agent_url: agentUrl, data_dir: dataDir });
  }
  const lines = [
    `Torpor ${VERSION} is listening on ${apiUrl} (API reference: ${apiUrl}/docs)`,
    `  data directory  ${dataDir}`,
    `  accelerator     ${accelerator.accelerator}: ${accelerator.reason}`,
    ...(agentUrl === undefined ? [] : [`  agents join at  ${agentUrl}`]),
    "  try             npx torpor run -- python3 -c 'print(6*7)'",
    '  accounts        none are needed here; npx torpor user create EMAIL --admin makes the first',
    'Press Ctrl-C to stop. Sandboxes keep running until you destroy them.',
  ];
  for (const text of lines) await line(io.stdout, text);
}
