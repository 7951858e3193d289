import type { Host, HostDeletePreview, HostToken } from '@torpor/sdk';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { findHost, findHosts } from '../client/find-host.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import { table } from '../output/table.ts';
import { formatAge } from '../output/units.ts';

interface CreateOptions extends CommonOptions {
  readonly team?: boolean;
  readonly tag?: string[];
}

interface TagOptions extends CommonOptions {
  readonly remove?: boolean;
}

interface RemoveOptions extends CommonOptions {
  readonly force?: boolean;
  readonly preview?: boolean;
}

export function registerHost(cli: CliContext): void {
  const hosts = cli.group(
    'host',
    'add, drain and delete the machines that run sandboxes, each by name or id',
  );
  registerCreate(cli, hosts);
  registerLs(cli, hosts);
  registerInfo(cli, hosts);
  registerDrain(cli, hosts);
  registerTag(cli, hosts);
  registerRm(cli, hosts);
}

function registerCreate(cli: CliContext, hosts: Command): void {
  cli
    .command('create <name>', 'create a host, and print the command with which it joins', hosts)
    .option('--team', 'only for sandboxes of the team, not for every team')
    .option('--tag <tags...>', 'tags of the host')
    .action(
      cli.action(async (name: string, options: CreateOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const type = options.team ? 'team' : 'regular';
          const created = await torpor.hosts.create(name, { type, tags: options.tag });
          if (options.json) return await json(cli.io, created);
          await line(cli.io.stdout, joinCommand(created));
          printStatus(cli.io, `${created.host.id}: run this on the machine within an hour`);
        });
      }),
    );
  cli.command('token <host>', 'make another token for a host, and print the command', hosts).action(
    cli.action(async (reference: string, options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const { id } = await findHost(torpor, reference);
        const token = await torpor.hosts.createToken(id);
        if (options.json) return await json(cli.io, token);
        await line(cli.io.stdout, joinCommand(token));
      });
    }),
  );
}

function joinCommand({ token, join_url: url }: HostToken): string {
  return `torpor agent --join ${url} ${token}`;
}

function registerLs(cli: CliContext, hosts: Command): void {
  cli.command('ls', 'list the hosts, oldest first', hosts, { isDefault: true }).action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const listed = await torpor.hosts.list();
        if (options.json) return await json(cli.io, listed);
        const rows = listed.map((host) => [
          host.id,
          host.name,
          host.draining ? `${host.status}, draining` : host.status,
          host.vcpus === undefined ? '' : String(host.vcpus),
          host.memory_mb === undefined ? '' : `${host.memory_mb} MiB`,
          host.last_heartbeat_at === undefined
            ? 'never'
            : `${formatAge(host.last_heartbeat_at)} ago`,
          host.tags.join(','),
        ]);
        const header = ['ID', 'NAME', 'STATE', 'VCPUS', 'MEMORY', 'HEARD', 'TAGS'];
        await line(cli.io.stdout, table(header, rows));
      });
    }),
  );
}

function registerInfo(cli: CliContext, hosts: Command): void {
  cli.command('info <host>', 'show the properties of a host', hosts).action(
    cli.action(async (reference: string, options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const host = await findHost(torpor, reference);
        if (options.json) return await json(cli.io, host);
        for (const [name, value] of Object.entries(properties(host))) {
          if (value === undefined || value === '') continue;
          await line(cli.io.stdout, `${`${name}:`.padEnd(15)}${value}`);
        }
      });
    }),
  );
}

function properties(host: Host): Record<string, string | undefined> {
  const mib = (value: number | undefined) => (value === undefined ? undefined : `${value} MiB`);
  return {
    id: host.id,
    name: host.name,
    state: host.status,
    type: host.type,
    team: host.team_id,
    draining: host.draining ? 'yes' : 'no',
    tags: host.tags.join(', '),
    address: host.address,
    arch: host.arch,
    vcpus: host.vcpus?.toString(),
    memory: mib(host.memory_mb),
    disk: mib(host.disk_mb),
    'free disk': mib(host.free_disk_mb),
    builds: host.builds?.toString(),
    agent: host.agent_version,
    heard: host.last_heartbeat_at,
    certificate: host.certificate_expires_at && `until ${host.certificate_expires_at}`,
    created: host.created_at,
  };
}

function registerDrain(cli: CliContext, hosts: Command): void {
  const commands = [
    ['drain', true, 'place no new sandboxes on hosts; those that they have stay'],
    ['undrain', false, 'place new sandboxes on hosts again'],
  ] as const;
  for (const [name, draining, description] of commands) {
    cli.command(`${name} <hosts...>`, description, hosts).action(
      cli.action(async (references: string[], options: CommonOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const changed = [];
          for (const { id } of await findHosts(torpor, references)) {
            changed.push(await torpor.hosts.update(id, { draining }));
            if (options.json) continue;
            await line(cli.io.stdout, id);
            if (draining) printStatus(cli.io, whatStays(await torpor.hosts.deletePreview(id)));
          }
          if (options.json) await json(cli.io, changed);
        });
      }),
    );
  }
}

/** What a host that is being drained still has. */
function whatStays({ host, sandboxes, snapshots }: HostDeletePreview): string {
  const paused = sandboxes.filter(({ status }) => status === 'paused').length;
  const parts = [
    `${sandboxes.length - paused} sandboxes`,
    `${paused} paused ones`,
    `${snapshots.length} snapshots`,
  ];
  return `${host.id}: ${parts.join(', ')} stay; paused ones can be resumed, and nothing is created there`;
}

function registerTag(cli: CliContext, hosts: Command): void {
  cli
    .command('tag <host> <tags...>', 'add tags to a host', hosts)
    .option('--remove', 'remove them instead')
    .action(
      cli.action(async (name: string, tags: string[], options: TagOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const { id } = await findHost(torpor, name);
          for (const tag of new Set(tags)) {
            if (options.remove) await torpor.hosts.removeTag(id, tag);
            else await torpor.hosts.addTag(id, tag);
          }
          const host = await torpor.hosts.get(id);
          if (options.json) return await json(cli.io, host);
          await line(cli.io.stdout, host.tags.join(' '));
        });
      }),
    );
}

function registerRm(cli: CliContext, hosts: Command): void {
  cli
    .command('rm <hosts...>', 'delete hosts; their certificates are refused from then on', hosts)
    .option('--preview', 'only list what would be lost')
    .option('--force', 'give up the sandboxes and snapshots that they have')
    .action(
      cli.action(async (references: string[], options: RemoveOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const previews = [];
          const ids = (await findHosts(torpor, references)).map(({ id }) => id);
          for (const id of ids) {
            if (!options.preview) await torpor.hosts.delete(id, { force: options.force });
            else previews.push(await torpor.hosts.deletePreview(id));
            if (!options.json && !options.preview) await line(cli.io.stdout, id);
          }
          if (options.json)
            return await json(cli.io, options.preview ? previews : { deleted: ids });
          for (const { host, sandboxes, snapshots } of previews) {
            if (sandboxes.length + snapshots.length === 0) {
              printStatus(cli.io, `${host.id}: nothing would be lost`);
            }
            for (const { id, status } of sandboxes)
              await line(cli.io.stdout, `${host.id}  sandbox   ${id}  ${status}`);
            for (const name of snapshots)
              await line(cli.io.stdout, `${host.id}  snapshot  ${name}`);
          }
        });
      }),
    );
}
