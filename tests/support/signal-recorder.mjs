// A program for tests: appends `ready`, then each signal that it receives, to the file that
// its argument names. When there has been none for a while it exits, with the second argument,
// or else as a shell reports the signal.
import { appendFileSync } from 'node:fs';
import { constants } from 'node:os';

const [log, status] = process.argv.slice(2);
/** A second copy of a signal would arrive within milliseconds. */
const QUIET_MS = 400;

const write = (line) => appendFileSync(log, `${line}\n`);
let exit;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGCONT', 'SIGUSR1']) {
  process.on(signal, () => {
    write(signal);
    clearTimeout(exit);
    exit = setTimeout(
      () => process.exit(Number(status ?? 128 + constants.signals[signal])),
      QUIET_MS,
    );
  });
}
// Raw, as editors and shells set their terminal: no key sends a signal.
if (process.stdin.isTTY) process.stdin.setRawMode(true).resume();
process.stdout.on('resize', () => write(`${process.stdout.columns}x${process.stdout.rows}`));
setInterval(() => undefined, 60_000);
write('ready');
