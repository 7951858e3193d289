import type { Torpor } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { findSandbox } from '../client/find-sandbox.ts';
import type { CommonOptions } from '../client/settings.ts';
import { EXIT } from '../exit-codes.ts';
import { removeEach } from './remove-each.ts';

interface RmOptions extends CommonOptions {
  readonly all?: boolean;
  readonly yes?: boolean;
}

export function registerRm(cli: CliContext): void {
  cli
    .command('rm [ids...]', 'destroy sandboxes')
    .option('--all', 'all sandboxes')
    .option('-y, --yes', 'do not ask for confirmation of --all')
    .action(
      cli.action(async (ids: string[], options: RmOptions, _command: Command) => {
        if ((ids.length === 0) === (options.all !== true)) {
          throw new TorporError('invalid_request', 'Give either the ids of sandboxes or --all.');
        }
        return cli.withTorpor(options, async (torpor) => {
          const chosen = options.all ? await allIds(torpor) : ids;
          if (options.all && !(await confirmed(cli, chosen.length, options))) return EXIT.failure;
          return removeEach(cli.io, chosen, options, {
            key: 'id',
            remove: (id) => destroy(torpor, id),
          });
        });
      }),
    );
}

async function destroy(torpor: Torpor, id: string): Promise<string> {
  const sandbox = await findSandbox(torpor, id);
  if (sandbox.info.status === 'stopped') {
    throw new TorporError('not_found', `Sandbox ${id} has already been destroyed.`);
  }
  await sandbox.destroy();
  return sandbox.id;
}

async function allIds(torpor: Torpor): Promise<string[]> {
  return (await Array.fromAsync(torpor.sandboxes.list())).map(({ id }) => id);
}

async function confirmed({ io }: CliContext, count: number, options: RmOptions): Promise<boolean> {
  if (options.yes || count === 0) return true;
  if (!io.stdin.isTTY || options.json) {
    throw new TorporError('invalid_request', `This would destroy ${count} sandboxes.`, {
      remedy: 'Add --yes to confirm.',
    });
  }
  const { confirm, isCancel } = await import('@clack/prompts');
  const confirmed = await confirm({
    message: `Destroy ${count === 1 ? 'one sandbox' : `all ${count} sandboxes`}?`,
    initialValue: false,
    input: io.stdin,
    output: io.stderr,
  });
  return !isCancel(confirmed) && confirmed;
}
