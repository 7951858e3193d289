import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { parseTransfer } from '../transfer/endpoint.ts';
import type { CpOptions } from '../transfer/run-copy.ts';

const HELP = `
One side, or both, is ID:PATH, a path in a sandbox; a relative or empty path starts in the home
directory of the user there. As with cp and scp, a destination that is a directory receives the
copy in it; any other is the name of the copy, and its directory must exist. SOURCE/. means the
contents of SOURCE. A symbolic link that is given as source or destination is followed. A FIFO or
a device that is given as source is read to its end; as destination, it is written to.

Files, directories, symbolic links, FIFOs and hard links among them are copied, with their
contents, holes, permissions, modification times to the nanosecond and user.* attributes. The
copy belongs to the user who makes it: on this machine you, in a sandbox --user. Set-user-ID and
set-group-ID bits of files from a sandbox are dropped. --archive keeps those as well, and, as
root, owners (by number), devices, ACLs and capabilities. Sockets are never copied.

The copy is made beside the destination and moved into place when it is complete; after an error
or an interrupt, nothing of it remains. An existing directory receives the files and keeps its
permissions; an existing file is replaced. What could not be copied, or changed while it was being
copied, is named on standard error, and the exit status is 1.

Examples: torpor cp ./src sb…:           into the home directory of the sandbox
          torpor cp sb…:/var/log/. logs  the contents of /var/log, into the directory logs
          torpor cp -u root ca.pem sb…:/etc/ssl/certs/`;

export function registerCp(cli: CliContext): void {
  cli
    .command('cp <source> <destination>', 'copy a file or directory into or out of a sandbox')
    .option(
      '-u, --user <user[:group]>',
      'user in the sandbox to copy as, by name or number (default: user; with -a, root)',
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
