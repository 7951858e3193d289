import type { AuditEntry } from '@torpor/sdk';
import { type Command, Option } from 'commander';
import { duration, integer } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { table } from '../output/table.ts';
import { formatLabels } from '../output/units.ts';

interface AuditOptions extends CommonOptions {
  readonly limit: number;
  readonly since?: number;
  readonly resource?: string;
  readonly type?: string;
  readonly action?: string;
  readonly failed?: boolean;
  readonly all?: boolean;
}

const DEFAULT_LIMIT = 50;
const MAX_LIMIT = 100_000;

export function registerAudit(cli: CliContext): void {
  cli
    .command('audit', 'list who changed what in the team, newest first')
    .addOption(
      new Option('-n, --limit <n>', 'only the newest <n> entries')
        .argParser(integer(1, MAX_LIMIT))
        .default(DEFAULT_LIMIT),
    )
    .option('--since <time>', 'only entries of the last <time>, e.g. 2h', duration)
    .option('--resource <id>', 'only entries about this sandbox, snapshot or key')
    .option('--type <type>', 'only entries about this type of resource, e.g. sandbox')
    .option('--action <action>', 'only this action, e.g. create')
    .option('--failed', 'only what failed')
    .option('--all', 'the entries of all teams, for operators of the platform')
    .action(
      cli.action(async (options: AuditOptions, _command: Command) => {
        const { since } = options;
        await cli.withTorpor(options, async (torpor) => {
          const entries: AuditEntry[] = [];
          const listed = torpor.auditLog.list({
            since: since === undefined ? undefined : new Date(Date.now() - since),
            resourceId: options.resource,
            resourceType: options.type,
            action: options.action,
            status: options.failed ? 'error' : undefined,
            allTeams: options.all,
          });
          for await (const entry of listed) {
            if (entries.push(entry) === options.limit) break;
          }
          if (options.json) return await json(cli.io, entries);
          const rows = entries.map((entry) => [
            entry.created_at,
            ...(options.all ? [entry.team_id] : []),
            entry.actor_name ?? entry.actor_id ?? entry.actor_type,
            `${entry.resource_type}.${entry.action}`,
            entry.resource_id,
            entry.status,
            formatLabels(entry.metadata ?? {}),
          ]);
          const team = options.all ? ['TEAM'] : [];
          const header = ['TIME', ...team, 'ACTOR', 'ACTION', 'RESOURCE', 'STATUS', 'NOTE'];
          await line(cli.io.stdout, table(header, rows));
        });
      }),
    );
}
