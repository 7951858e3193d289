import { parseArgs } from 'node:util';
import { type Envd, startEnvd } from './server.ts';

/** The address of every guest; GUEST.address, not imported to keep the start short. */
const GUEST_ADDRESS = '169.254.0.21';

const USAGE = `envd: the daemon in the guest

  --host ADDRESS      address to listen on (0.0.0.0)
  --port PORT         port to listen on (49983)
  --user NAME         account of requests that name none (root)
  --guest             this is a guest's daemon: /init may set clock, host name and
                      random generator, and the daemon shields itself from hogs
  --no-forwarder      do not make loopback servers reachable
`;

/**
 * Runs the daemon with these arguments until a signal stops it, and resolves as soon as it
 * listens; undefined if only help was requested. Throws the system error if it cannot listen,
 * and a TypeError for arguments that it does not know.
 */
export async function runDaemon(args: readonly string[]): Promise<Envd | undefined> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      host: { type: 'string', default: '0.0.0.0' },
      port: { type: 'string', default: '49983' },
      user: { type: 'string', default: 'root' },
      guest: { type: 'boolean', default: false },
      'no-forwarder': { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    return undefined;
  }
  const { guest } = values;
  // A defect in one request must not stop the guest's only daemon.
  process.on('uncaughtException', (error) => console.error('envd:', error));
  process.on('unhandledRejection', (error) => console.error('envd:', error));
  const envd = await startEnvd({
    host: values.host,
    port: Number(values.port),
    defaultUser: values.user,
    systemInit: guest,
    protect: guest,
    ...(guest && !values['no-forwarder'] ? { forwardTo: GUEST_ADDRESS } : {}),
  });
  console.error(`envd: listening on ${values.host}:${envd.port}`);
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => void envd.close().then(() => process.exit(0)));
  }
  return envd;
}
