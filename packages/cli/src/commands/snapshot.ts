import { formatBytes, TEMPLATE_TYPES, type TemplateType, TorporError } from '@torpor/sdk/basics';
import { type Command, Option } from 'commander';
import { assignment } from '../arguments.ts';
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
  readonly defaultUser?: string;
  readonly defaultEnv?: Record<string, string>;
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
    .option('--default-user <user>', 'who runs programs in sandboxes made from it')
    .option(
      '--default-env <name=value>',
      'environment variable of sandboxes made from it, which everyone can read who lists it; may be repeated',
      assignment,
    )
    .option('--timings', 'print how long each phase took')
    .action(
      cli.action(async (id: string, options: SnapshotOptions, _command: Command) => {
        const { name, overwrite, defaultUser, defaultEnv } = options;
        if (overwrite && name === undefined) {
          throw new TorporError(
            'invalid_request',
            '--overwrite needs --name, the snapshot to replace.',
          );
        }
        await cli.withTorpor(options, async (torpor) => {
          const sandbox = await findSandbox(torpor, id);
          const snapshot = await torpor.snapshots.create(sandbox.id, {
            name,
            overwrite,
            defaultUser,
            defaultEnv,
          });
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
    .command(
      'ls',
      'list the snapshots of the team and of the platform, and the images',
      templates,
      { isDefault: true },
    )
    .alias('list')
    .addOption(new Option('--type <type>', 'only those of this type').choices(TEMPLATE_TYPES))
    .addOption(new Option('-q, --quiet', 'print names only').conflicts('json'))
    .action(
      cli.action(async (options: ListOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const listed = await torpor.templates.list({ type: options.type });
          if (options.json) return await json(cli.io, listed);
          if (options.quiet) {
            for (const { name } of listed) await line(cli.io.stdout, name);
            return;
          }
          const rows = listed.map((template) => [
            template.name,
            template.type,
            template.platform ? 'platform' : 'team',
            template.vcpus === undefined ? 'any' : String(template.vcpus),
            template.memory_mb === undefined ? 'any' : `${template.memory_mb} MiB`,
            formatBytes(template.size_bytes),
            formatAge(template.created_at),
          ]);
          const header = ['NAME', 'TYPE', 'OWNER', 'CPU', 'MEMORY', 'SIZE', 'AGE'];
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
              await torpor.templates.delete(name);
              return name;
            },
          }),
        );
      }),
    );
}
