import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { PagerServer } from './control/server.ts';

/**
 * The pager process: `main.ts --socket PATH [--threads N]`. It is started detached
 * by the host agent, and exits when it is asked to.
 */
const { values } = parseArgs({
  options: { socket: { type: 'string' }, threads: { type: 'string' } },
});
if (values.socket === undefined) {
  process.stderr.write('usage: main.ts --socket PATH [--threads N]\n');
  process.exit(2);
}
const threads = Number(values.threads ?? Math.min(4, availableParallelism()));

// The exit of an agent must not stop the pager.
process.on('SIGHUP', () => undefined);
process.on('SIGINT', () => undefined);

await PagerServer.start({
  socketPath: values.socket,
  threads,
  onShutdown: () => process.exit(0),
});
process.stdout.write('ready\n');
