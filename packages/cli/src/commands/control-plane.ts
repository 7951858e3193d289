import { SETTINGS } from '@torpor/control-plane/config';
import type { Command } from 'commander';
import { optionOf } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import { type CommonOptions, readConfig } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import { StopRequest } from '../platform/stop-request.ts';
import { VERSION } from '../version.ts';

interface ControlPlaneOptions extends CommonOptions {
  readonly host?: string;
  readonly port?: number;
  readonly agentPort?: number;
  readonly replaceSecretKey?: boolean;
}

export function registerControlPlane(cli: CliContext): void {
  cli
    .command('control-plane', 'start the API and the database, for agents on other machines')
    .option(
      '-p, --port <n>',
      `port of the API; 0 picks a free one (TORPOR_PORT, default ${SETTINGS.port.defaultValue})`,
      optionOf(SETTINGS.port.parse),
    )
    .option(
      '--host <address>',
      `address that the API listens on (TORPOR_HOST, default ${SETTINGS.host.defaultValue})`,
    )
    .option(
      '--agent-port <n>',
      `port for agents, on every address (TORPOR_AGENT_PORT, default ${SETTINGS.agentPort.defaultValue})`,
      optionOf(SETTINGS.agentPort.parse),
    )
    .option(
      '--replace-secret-key',
      'use another secret key than before: discards what the lost one encrypted',
    )
    .addHelpText(
      'after',
      `
It runs no sandboxes. \`torpor host create NAME\` prints the command with which another machine
joins it. Any number of them may run on one database (DATABASE_URL) with one secret key
(TORPOR_SECRET_KEY). With --json it prints one line on standard output when it is ready:
  {"event":"ready","api_url":"…","agent_url":"…","data_dir":"…"}`,
    )
    .action(
      cli.action(async (options: ControlPlaneOptions, _command: Command) => {
        const { io } = cli;
        const stop = new StopRequest(io);
        try {
          const config = await readConfig(io, options);
          const { createLogger } = await import('../platform/logger.ts');
          const { controlPlaneOptions } = await import('../platform/control-plane-options.ts');
          const { openTracing } = await import('../platform/open-tracing.ts');
          const { ControlPlane } = await import('@torpor/control-plane');
          const logger = createLogger(io, {
            asJson: options.json === true,
            level: config.logLevel,
          });
          const parts = { config, version: VERSION, logger };
          await using tracing = await openTracing(parts, 'torpor-control-plane');
          await using controlPlane = await ControlPlane.start({
            ...controlPlaneOptions(parts, tracing),
            replaceSecretKey: options.replaceSecretKey,
            agents: { port: config.agentPort, url: config.agentUrl },
          });
          const { url: apiUrl, agentUrl } = controlPlane;
          if (options.json) {
            const { dataDir } = config;
            const urls = { api_url: apiUrl, agent_url: agentUrl };
            await json(io, { event: 'ready', ...urls, data_dir: dataDir });
          } else {
            await line(io.stdout, `Torpor ${VERSION} is listening on ${apiUrl}`);
            await line(io.stdout, `  agents join at  ${agentUrl}`);
          }
          await stop.requested;
          printStatus(io, 'stopping; sandboxes keep running');
        } finally {
          stop.dispose();
        }
      }),
    );
}
