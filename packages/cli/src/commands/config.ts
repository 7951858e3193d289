import type { ConfigEntry, LoadedConfig, SettingOrigin } from '@torpor/control-plane/config';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { type CommonOptions, loadSettings } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { table } from '../output/table.ts';

export function registerConfig(cli: CliContext): void {
  cli
    .command('config', 'list every setting with its value and where it comes from')
    .addHelpText(
      'after',
      `
A setting comes from the command line, else the environment, else the configuration file, else
its default. The file is torpor.toml in the data directory, or what --config or TORPOR_CONFIG
names; it has one setting per line under the name that is listed here: guest_timeout = "5m".
Keys and passwords are never shown.`,
    )
    .action(
      cli.action(async (options: CommonOptions, _command: Command) => {
        const { entries, file } = await loadSettings(cli.io, options);
        if (options.json) {
          const read = file.state === 'read';
          return json(cli.io, { file: { path: file.path, read }, settings: entries.map(describe) });
        }
        const rows = entries.map((entry) => [entry.name, shown(entry), originText(entry.origin)]);
        await line(cli.io.stdout, table(['SETTING', 'VALUE', 'FROM'], rows));
        await line(cli.io.stdout);
        await line(cli.io.stdout, fileText(file));
      }),
    );
}

function describe({ name, variable, flag, meaning, value, secret, origin }: ConfigEntry) {
  return {
    name,
    value: value ?? null,
    origin: origin.kind,
    ...('name' in origin ? { given_by: origin.name } : {}),
    ...('path' in origin ? { given_by: origin.path } : {}),
    secret,
    variable,
    ...(flag === undefined ? {} : { flag }),
    meaning,
  };
}

function shown({ value, secret, unset }: ConfigEntry): string {
  if (unset !== undefined) return `(${unset})`;
  if (value === undefined && secret) return '(not shown)';
  return String(value);
}

function originText(origin: SettingOrigin): string {
  switch (origin.kind) {
    case 'flag':
    case 'environment':
      return origin.name;
    case 'file':
      return origin.path;
    case 'default':
      return 'default';
  }
}

function fileText({ path, state }: LoadedConfig['file']): string {
  switch (state) {
    case 'read':
      return `Configuration file: ${path}`;
    case 'missing':
      return `Configuration file: none (it would be ${path})`;
    case 'unreadable':
      return `Configuration file: ${path}, which you are not allowed to read`;
  }
}
