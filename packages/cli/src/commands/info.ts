import type { SandboxInfo } from '@torpor/sdk';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { formatDuration, formatLabels } from '../output/units.ts';

export function registerInfo(cli: CliContext): void {
  cli.command('info <id>', 'show the properties of a sandbox').action(
    cli.action(async (id: string, options: CommonOptions, _command: Command) => {
      await cli.withSandbox(options, id, async ({ info }) => {
        if (options.json) return await json(cli.io, info);
        for (const [name, value] of Object.entries(properties(info))) {
          if (value === undefined || value === '') continue;
          await line(cli.io.stdout, `${`${name}:`.padEnd(15)}${value}`);
        }
      });
    }),
  );
}

/** The properties, named like the options that set them and like the columns of `ls`. */
function properties(info: SandboxInfo): Record<string, string | undefined> {
  return {
    id: info.id,
    state: info.status,
    reason: info.reason,
    template: info.template,
    vcpus: String(info.vcpus),
    memory: `${info.memory_mb} MiB`,
    disk: info.disk_size_mb === undefined ? undefined : `${info.disk_size_mb} MiB`,
    'idle-timeout': info.timeout_sec === 0 ? 'none' : formatDuration(info.timeout_sec),
    'auto-pause': yesOrNo(info.auto_pause),
    internet: yesOrNo(info.allow_internet),
    label: formatLabels(info.metadata),
    address: info.host_ip,
    build: info.build_id,
    created: info.created_at,
    started: info.started_at,
    'last active': info.last_active_at,
    'last changed': info.last_updated,
    destroyed: info.ended_at,
    versions: versionList(info.versions),
  };
}

function yesOrNo(value: boolean): string {
  return value ? 'yes' : 'no';
}

/** `qemu 10.0.2, kernel 6.12.30, …` */
function versionList({ vmm, vmm_version, ...others }: Record<string, string>): string {
  const machine = vmm === undefined ? [] : [[vmm, vmm_version].join(' ').trimEnd()];
  const rest = Object.entries(others).map(
    ([name, version]) => `${name.replace(/_version$/, '')} ${version}`,
  );
  return [...machine, ...rest].join(', ');
}
