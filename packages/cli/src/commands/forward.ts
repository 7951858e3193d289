import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { TorporError, withFullStop } from '@torpor/sdk/basics';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { exitCodeOfSignal } from '../exit-codes.ts';
import { type Io, json, line } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import type { TerminationSignal } from '../termination-signals.ts';

interface ForwardOptions extends CommonOptions {
  readonly address: string;
}

interface Forwarding {
  readonly local: number;
  readonly remote: number;
}

const MAX_PORT = 65_535;

export function registerForward(cli: CliContext): void {
  cli
    .command('forward <id> <ports...>', 'forward ports of this machine to ports of a sandbox')
    .option('--address <address>', 'address of this machine to listen on', '127.0.0.1')
    .addHelpText(
      'after',
      `
A port is PORT, LOCAL:PORT, or :PORT for any free local port. The command must run on the machine
that runs the sandbox, and forwards until it is interrupted. It also reaches programs that listen
on localhost only.

Examples:
  torpor forward sb4k 8000
  torpor forward sb4k 3000:8000 :5432`,
    )
    .action(
      cli.action(async (id: string, ports: string[], options: ForwardOptions, _: Command) => {
        const forwardings = ports.map(parseForwarding);
        return cli.withSandbox(options, id, async (sandbox) => {
          if (sandbox.info.status !== 'running') {
            // Unless it is running by now, the API's error says what to do.
            await sandbox.processes.list();
            await sandbox.refresh();
          }
          const { host_ip: host } = sandbox.info;
          if (host === undefined) {
            throw new TorporError('conflict', `Sandbox ${sandbox.id} has no address.`, {
              remedy: `Look at it with \`torpor info ${sandbox.id}\`: it may just have been paused.`,
            });
          }
          using listeners = new DisposableStack();
          const listening: Forwarding[] = [];
          for (const { local, remote } of forwardings) {
            const server = await listen(cli.io, { host, remote, local, address: options.address });
            listeners.defer(() => void server.close());
            listening.push({ local: portOf(server), remote });
          }
          await announce(cli.io, options, listening);
          return exitCodeOfSignal(await nextSignal(cli.io));
        });
      }),
    );
}

function parseForwarding(text: string): Forwarding {
  const match = /^(?:(\d*):)?(\d+)$/.exec(text);
  const remote = Number(match?.[2]);
  const local = match?.[1] === undefined ? remote : Number(match[1]);
  if (match === null || remote < 1 || remote > MAX_PORT || local > MAX_PORT) {
    throw new TorporError('invalid_request', `"${text}" is not PORT, LOCAL:PORT or :PORT.`);
  }
  return { local, remote };
}

interface Listening extends Forwarding {
  readonly host: string;
  readonly address: string;
}

async function listen(io: Io, { host, remote, local, address }: Listening): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, (client) => {
    const guest = connect({ host, port: remote, allowHalfOpen: true });
    guest.once('error', ({ message }) => printStatus(io, `port ${remote}: ${message}`));
    join(client, guest);
    join(guest, client);
  });
  server.listen(local, address);
  try {
    await once(server, 'listening');
  } catch (error) {
    throw cannotListen(error, { local, remote });
  }
  return server;
}

function cannotListen(cause: unknown, { local, remote }: Forwarding): TorporError {
  const reason = withFullStop(cause instanceof Error ? cause.message : String(cause));
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
  const isPort = code === 'EADDRINUSE' || code === 'EACCES';
  return new TorporError(
    isPort ? 'conflict' : 'invalid_request',
    `Cannot listen on port ${local}: ${reason}`,
    {
      remedy: isPort
        ? `Choose another local port, or write :${remote} for any free one.`
        : 'Give an address of this machine with --address.',
      cause,
    },
  );
}

/** Each direction is closed separately; an error on either side closes both. */
function join(from: Socket, to: Socket): void {
  from.pipe(to);
  from.on('error', () => to.destroy());
  from.on('close', () => to.end());
}

function portOf(server: Server): number {
  return (server.address() as AddressInfo).port;
}

async function announce(
  io: Io,
  { json: asJson, address }: ForwardOptions,
  listening: readonly Forwarding[],
): Promise<void> {
  if (asJson) return json(io, { address, ports: listening });
  for (const { local, remote } of listening) {
    await line(io.stdout, `${address}:${local} -> port ${remote}`);
  }
}

function nextSignal(io: Io): Promise<TerminationSignal> {
  return new Promise((resolve) => {
    const unsubscribe = io.onSignal((signal) => {
      unsubscribe();
      resolve(signal);
    });
  });
}
