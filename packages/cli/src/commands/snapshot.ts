import { formatBytes, TEMPLATE_TYPES, type TemplateType, TorporError } from '@torpor/sdk/basics';
import { type Command, Option } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { findSandbox } from '../client/find-sandbox.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { table } from '../output/table.ts';
import { reportTimings } from '../output/timings.ts';
import { formatAge } from '../output/units.ts';
import { removeEach } from './remove-each.ts';

interface SnapshotOptions extends CommonOptions {
  readonly name?: string;
  readonly overwrite?: boolean;
  readonly timings?: boolean;
}

interface ListOptions extends CommonOptions {
  readonly type?: TemplateType;
  readonly quiet?: boolean;
}

export function registerSnapshot(cli: CliContext): void {
  cli
    .command(
      'snapshot <id>',
      'save a sandbox as a template and print its name; the sandbox is paused',
    )
    .option('-n, --name <name>', 'name of the template (default: template- and eight digits)')
    .option('--overwrite', 'replace an existing snapshot of this name')
    .option('--timings', 'print how long each phase took')
    .action(
      cli.action(async (id: string, options: SnapshotOptions, _command: Command) => {
        const { name, overwrite } = options;
        if (overwrite && name === undefined) {
          throw new TorporError(
            'invalid_request',
            '--overwrite needs --name, the snapshot to replace.',
          );
        }
        await cli.withTorpor(options, async (torpor) => {
          const sandbox = await findSandbox(torpor, id);
          const snapshot = await torpor.snapshots.create(sandbox.id, { name, overwrite });
          await (options.json ? json(cli.io, snapshot) : line(cli.io.stdout, snapshot.name));
          await reportTimings(cli.io, snapshot.timings, options);
        });
      }),
    );
}

export function registerTemplates(cli: CliContext): void {
  const templates = cli.group(
    'templates',
    'list and delete templates: the images and snapshots that sandboxes are created from',
  );

  cli
    .command('ls', 'list snapshots and images', templates, { isDefault: true })
    .alias('list')
    .addOption(new Option('--type <type>', 'only those of this type').choices(TEMPLATE_TYPES))
    .addOption(new Option('-q, --quiet', 'print names only').conflicts('json'))
    .action(
      cli.action(async (options: ListOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const listed = await torpor.snapshots.list({ type: options.type });
          if (options.json) return await json(cli.io, listed);
          if (options.quiet) {
            for (const { name } of listed) await line(cli.io.stdout, name);
            return;
          }
          const rows = listed.map(({ name, type, vcpus, memory_mb, size_bytes, created_at }) => [
            name,
            type,
            vcpus === undefined ? 'any' : String(vcpus),
            memory_mb === undefined ? 'any' : `${memory_mb} MiB`,
            formatBytes(size_bytes),
            formatAge(created_at),
          ]);
          const header = ['NAME', 'TYPE', 'CPU', 'MEMORY', 'SIZE', 'AGE'];
          await line(cli.io.stdout, table(header, rows));
        });
      }),
    );

  cli
    .command(
      'rm <names...>',
      'delete snapshots; sandboxes made from them are not affected',
      templates,
    )
    .action(
      cli.action(async (names: string[], options: CommonOptions, _command: Command) => {
        return cli.withTorpor(options, (torpor) =>
          removeEach(cli.io, names, options, {
            key: 'name',
            remove: async (name) => {
              await torpor.snapshots.delete(name);
              return name;
            },
          }),
        );
      }),
    );
}
