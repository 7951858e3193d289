// A program for tests: appends `ready`, then each signal that reaches it, to the file that
// its argument names. Exits with 0 once none has come for a while.
import { appendFileSync } from 'node:fs';

const [log] = process.argv.slice(2);
/** A second copy of a signal would come within milliseconds. */
const QUIET_MS = 400;

const write = (line) => appendFileSync(log, `${line}\n`);
let exit;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGCONT', 'SIGUSR1']) {
  process.on(signal, () => {
    write(signal);
    clearTimeout(exit);
    exit = setTimeout(() => process.exit(0), QUIET_MS);
  });
}
// Raw, as editors and shells set their terminal: a signal does not come by a key.
if (process.stdin.isTTY) process.stdin.setRawMode(true).resume();
process.stdout.on('resize', () => write(`${process.stdout.columns}x${process.stdout.rows}`));
setInterval(() => undefined, 60_000);
write('ready');
