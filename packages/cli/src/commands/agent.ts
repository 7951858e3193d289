import { type Config, SETTINGS } from '@torpor/control-plane/config';
import { TorporError } from '@torpor/sdk/basics';
import type { Command } from 'commander';
import { optionOf } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import { type CommonOptions, readConfig } from '../client/settings.ts';
import { type Io, json, line } from '../io.ts';
import { printStatus, progressStatus } from '../output/progress.ts';
import type { JoinedAgent } from '../platform/joined-agent.ts';
import { prepareHost } from '../platform/prepare-host.ts';
import { StopRequest } from '../platform/stop-request.ts';
import { VERSION } from '../version.ts';

interface AgentOptions extends CommonOptions {
  readonly join?: string;
  readonly hostPort?: number;
  readonly hostAddress?: string;
  readonly setup?: boolean;
  readonly guestTimeout?: number;
}

export function registerAgent(cli: CliContext): void {
  cli
    .command('agent [token]', 'run sandboxes of a control plane on this machine')
    .option(
      '--join <url>',
      'join the control plane at this address with the token, once; without one, follow it to this address',
    )
    .option(
      '--host-port <n>',
      `port for control planes, on every address (TORPOR_HOST_PORT, default ${SETTINGS.hostPort.defaultValue})`,
      optionOf(SETTINGS.hostPort.parse),
    )
    .option(
      '--host-address <host:port>',
      'where control planes reach this agent, if not where its heartbeats come from (TORPOR_HOST_ADDRESS)',
      optionOf(SETTINGS.hostAddress.parse),
    )
    .option('--setup', 'first install what this machine lacks')
    .option(
      '--guest-timeout <time>',
      'how long a guest may take to respond when it boots or resumes (TORPOR_GUEST_TIMEOUT, default 2m)',
      optionOf(SETTINGS.guestTimeoutMs.parse),
    )
    .addHelpText(
      'after',
      `
\`torpor host create NAME\` prints the command with address and token. The machine keeps its key
and certificate in the data directory, so later starts need neither. --join URL without a token
changes the address of the control plane that it has joined. With --json it prints one
line on standard output when it is ready:
  {"event":"ready","host_id":"…","port":7072,"data_dir":"…"}
SIGINT and SIGTERM stop it; sandboxes keep running and are adopted by the next start.`,
    )
    .action(
      cli.action(async (token: string | undefined, options: AgentOptions, _command: Command) => {
        const { io } = cli;
        if (token !== undefined && options.join === undefined) {
          throw new TorporError('invalid_request', 'A token needs the address that it is for.', {
            remedy: 'Use --join URL TOKEN, as `torpor host create` prints it.',
          });
        }
        const stop = new StopRequest(io);
        try {
          const config = await readConfig(io, options);
          if (token === undefined) await assertJoined(config, options);
          await using agent = await start(io, { options, token, config, stop });
          await announce(io, options, agent, config);
          await Promise.race([stop.requested, agent.failed]);
          printStatus(io, 'stopping; sandboxes keep running');
        } finally {
          stop.dispose();
        }
      }),
    );
}

/** Throws `invalid_request` for an address without its token, `host_setup`. */
async function assertJoined({ dataDir }: Config, { join }: AgentOptions): Promise<void> {
  const { hasJoined } = await import('@torpor/agent/enrolment');
  if (await hasJoined(dataDir)) return;
  const remedy = 'Use --join URL TOKEN, as `torpor host create` prints it.';
  const message = 'This machine has not joined a control plane.';
  throw new TorporError(join === undefined ? 'host_setup' : 'invalid_request', message, { remedy });
}

async function start(
  io: Io,
  parts: {
    readonly options: AgentOptions;
    readonly token: string | undefined;
    readonly config: Config;
    readonly stop: StopRequest;
  },
): Promise<JoinedAgent> {
  const { options, token, config, stop } = parts;
  const { join: url } = options;
  await prepareHost(io, config, options);
  // Loaded here, because most commands do not need the server's code.
  const { createLogger } = await import('../platform/logger.ts');
  const { JoinedAgent } = await import('../platform/joined-agent.ts');
  return JoinedAgent.start({
    config,
    version: VERSION,
    logger: createLogger(io, { asJson: options.json === true, level: config.logLevel }),
    join: url === undefined ? undefined : { url, ...(token === undefined ? {} : { token }) },
    onProgress: progressStatus(io),
    onTerminate: () => stop.request(),
  });
}

async function announce(
  io: Io,
  options: AgentOptions,
  { hostId, port, accelerator }: JoinedAgent,
  { dataDir }: Config,
): Promise<void> {
  if (options.json) {
    return json(io, { event: 'ready', host_id: hostId, port, data_dir: dataDir });
  }
  const lines = [
    `This machine is the host ${hostId}; its agent listens on port ${port}`,
    `  data directory  ${dataDir}`,
    `  accelerator     ${accelerator.accelerator}: ${accelerator.reason}`,
    'Press Ctrl-C to stop. Sandboxes keep running until they are destroyed.',
  ];
  for (const text of lines) await line(io.stdout, text);
}
