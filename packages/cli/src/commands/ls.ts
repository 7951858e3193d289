import type { SandboxInfo } from '@torpor/sdk';
import { isSandboxState, SANDBOX_STATES, type SandboxState } from '@torpor/sdk/basics';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { assignment, integer } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { table } from '../output/table.ts';
import { formatAge, formatLabels } from '../output/units.ts';

interface LsOptions extends CommonOptions {
  readonly all?: boolean;
  readonly quiet?: boolean;
  readonly limit?: number;
  readonly state?: SandboxState[];
  readonly template?: string;
  readonly label?: Record<string, string>;
}

const MAX_LIMIT = 100_000;

export function registerLs(cli: CliContext): void {
  cli
    .command('ls', 'list sandboxes, newest first')
    .alias('list')
    .addOption(
      new Option(
        '-a, --all',
        'include destroyed sandboxes, which are listed for 7 days (TORPOR_KEEP_STOPPED)',
      ).conflicts('state'),
    )
    .option('-n, --limit <n>', 'only the newest <n>', integer(1, MAX_LIMIT))
    .addOption(new Option('-q, --quiet', 'print ids only').conflicts('json'))
    .option('-s, --state <states>', 'only those in these states, separated by commas', states)
    .option('-t, --template <name>', 'only those made from this template')
    .option('-l, --label <name=value>', 'only those with this label; may be repeated', assignment)
    .addHelpText(
      'after',
      `
Destroyed sandboxes are in the state stopped. The states are
${SANDBOX_STATES.join(', ')}.

Examples:
  torpor ls --state running,paused
  torpor ls -q --label job=42`,
    )
    .action(
      cli.action(async (options: LsOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const sandboxes: SandboxInfo[] = [];
          const listed = torpor.sandboxes.list({
            states: options.state ?? (options.all ? SANDBOX_STATES : undefined),
            template: options.template,
            metadata: options.label,
          });
          for await (const { info } of listed) {
            if (sandboxes.push(info) === options.limit) break;
          }
          if (options.json) return await json(cli.io, sandboxes);
          if (options.quiet) {
            for (const { id } of sandboxes) await line(cli.io.stdout, id);
            return;
          }
          const rows = sandboxes.map((sandbox) => [
            sandbox.id,
            sandbox.status,
            sandbox.template,
            String(sandbox.vcpus),
            `${sandbox.memory_mb} MiB`,
            formatAge(sandbox.created_at),
            sandbox.reason ?? formatLabels(sandbox.metadata),
          ]);
          await line(
            cli.io.stdout,
            table(['ID', 'STATE', 'TEMPLATE', 'CPU', 'MEMORY', 'AGE', 'NOTE'], rows),
          );
        });
      }),
    );
}

function states(text: string): SandboxState[] {
  return text.split(',').map((name) => {
    if (!isSandboxState(name)) {
      throw new InvalidArgumentError(`The states are ${SANDBOX_STATES.join(', ')}.`);
    }
    return name;
  });
}
