import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { parseTransfer } from '../transfer/endpoint.ts';
import type { CpOptions } from '../transfer/run-copy.ts';

const HELP = `
One side, or both, is ID:PATH, a path in a sandbox; a relative one, and none, starts at the home
of the user there. As with cp and scp: a destination that is a directory receives the copy in
it, any other is the name of the copy, whose directory must exist. SOURCE/. is what is in SOURCE.
A source that is a symbolic link is what it points to; so is a destination. A FIFO or a device
as the source itself is read to its end, and one as the destination is written to.

Copied are files, directories, symbolic links, FIFOs and hard links among them, with their
contents, holes, permissions, modification times to the nanosecond and user.* attributes. The
copy belongs to the user who makes it: here you, in a sandbox --user. Set-user-ID and
set-group-ID bits of files from a sandbox are dropped. --archive keeps those as well, and, as
root, owners (by number), devices, ACLs and capabilities. Sockets are never copied.

The copy is made aside and moved into place when it is complete: an error or an interrupt leaves
nothing of it. A directory that exists is filled, and keeps its own permissions; a file is
replaced. What could not be copied, or changed while it was, is named on standard error, and
the exit status is 1.

Examples: torpor cp ./src sb…:           into the home directory of the sandbox
          torpor cp sb…:/var/log/. logs  what is in /var/log, into the directory logs
          torpor cp -u root ca.pem sb…:/etc/ssl/certs/`;

export function registerCp(cli: CliContext): void {
  cli
    .command('cp <source> <destination>', 'copy a file or directory into or out of a sandbox')
    .option(
      '-u, --user <user[:group]>',
      'whom in the sandbox to do it as, by name or number (default: user; with -a, root)',
    )
    .option('-a, --archive', 'keep owners, devices and set-id bits too; see below')
    .option('--verify', 'compare the SHA-256 of a file on both sides afterwards')
    .addHelpText('after', HELP)
    .action(
      cli.action(
        async (source: string, destination: string, options: CpOptions, _command: Command) => {
          // Loaded here, because the help of all commands does without.
          const { runCopy } = await import('../transfer/run-copy.ts');
          const transfer = parseTransfer(source, destination);
          return await cli.withTorpor(options, (torpor) => runCopy(cli, torpor, transfer, options));
        },
      ),
    );
}
