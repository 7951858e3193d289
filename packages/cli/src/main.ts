// Node opens its inspector at SIGUSR1; after a listener it leaves the signal's default action.
// (--disable-sigusr1 would block the signal instead.)
const ignore = () => undefined;
process.on('SIGUSR1', ignore).off('SIGUSR1', ignore);

const { processIo, runCli, terminateWithNpm } = await import('./index.ts');

terminateWithNpm();

// A closed pipe (`torpor … | head`) is handled where it is written to.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);

// Writes to files, pipes and terminals are synchronous here, so none is lost; standard
// input or an open socket must not keep a finished command running.
process.exit(await runCli(process.argv.slice(2), processIo()));
