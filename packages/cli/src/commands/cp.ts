import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { parseTransfer } from '../transfer/endpoint.ts';
import type { CpOptions } from '../transfer/run-copy.ts';

const HELP = `
SOURCE, DESTINATION or both are ID:PATH, a path in a sandbox; a relative or empty path there starts
in the home directory of the user. As with cp and scp, if DESTINATION is a directory, the copy is
put into it; otherwise DESTINATION is the name of the copy, and its parent directory must exist.
SOURCE/. means the contents of SOURCE. If SOURCE or DESTINATION is a symbolic link, it is followed.
A FIFO or device is read to its end as SOURCE, and written to as DESTINATION.

Files, directories, symbolic links, FIFOs and hard links among them are copied, with their
contents, holes, permissions, modification times to the nanosecond and user.* attributes. The
copy belongs to the user who makes it: you on this machine, --user in a sandbox. Set-user-ID and
set-group-ID bits of files from a sandbox are dropped. --archive keeps those as well, and, as
root, owners (by number), devices, ACLs and capabilities. Sockets are never copied.

The copy is made beside DESTINATION and moved into place when it is complete; after an error or an
interrupt, nothing of it remains. Files are added to an existing directory, which keeps its
permissions; an existing file is replaced. Files that could not be copied, or that changed while they
were being copied, are named on standard error, and the exit status is 1.

Examples:
  torpor cp ./src sb4k:           # into the home directory of the sandbox
  torpor cp sb4k:/var/log/. logs  # the contents of /var/log, into the directory logs
  torpor cp -u root ca.pem sb4k:/etc/ssl/certs/`;

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
          // Loaded here, because the help of all commands does not need it.
          const { runCopy } = await import('../transfer/run-copy.ts');
          const transfer = parseTransfer(source, destination);
          return await cli.withTorpor(options, (torpor) => runCopy(cli, torpor, transfer, options));
        },
      ),
    );
}
