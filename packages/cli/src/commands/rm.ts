import type { Torpor } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { findSandbox } from '../client/find-sandbox.ts';
import type { CommonOptions } from '../client/settings.ts';
import { EXIT, exitCodeOfError } from '../exit-codes.ts';
import { json, line } from '../io.ts';

interface RmOptions extends CommonOptions {
  readonly all?: boolean;
  readonly yes?: boolean;
}

/** Each destroy waits for a VMM to exit; more at once would only queue on the host. */
const CONCURRENCY = 4;

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
          const chosen = options.all ? await allIds(torpor) : [...new Set(ids)];
          if (options.all && !(await confirmed(cli, chosen.length, options))) return EXIT.failure;
          return remove(cli, torpor, chosen, options);
        });
      }),
    );
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

async function remove(
  { io }: CliContext,
  torpor: Torpor,
  ids: readonly string[],
  options: RmOptions,
): Promise<number> {
  const results: { id: string; error?: TorporError }[] = [];
  const waiting = [...ids];
  const worker = async () => {
    for (let id = waiting.shift(); id !== undefined; id = waiting.shift()) {
      try {
        const sandbox = await findSandbox(torpor, id);
        if (sandbox.info.status === 'stopped') {
          throw new TorporError('not_found', `Sandbox ${id} has already been destroyed.`);
        }
        await sandbox.destroy();
        results.push({ id: sandbox.id });
        if (!options.json) await line(io.stdout, sandbox.id);
      } catch (reason) {
        const error = TorporError.from(reason);
        results.push({ id, error });
        await line(io.stderr, `torpor: ${failureOf(id, error)}`);
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, worker));
  if (options.json) {
    const list = results.map(({ id, error }) =>
      error === undefined
        ? { id, removed: true }
        : { id, removed: false, error: { code: error.code, message: error.message } },
    );
    await json(io, list);
  }
  const failed = results.find(({ error }) => error !== undefined)?.error;
  return failed === undefined ? EXIT.ok : exitCodeOfError(failed);
}

/** Names the sandbox unless the message does, as there may be several. */
function failureOf(id: string, { message }: TorporError): string {
  return message.includes(id) ? message : `${id}: ${message}`;
}
