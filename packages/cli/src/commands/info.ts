import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';

export function registerInfo(cli: CliContext): void {
  cli.command('info <id>', 'show the properties of a sandbox').action(
    cli.action(async (id: string, options: CommonOptions, _command: Command) => {
      await cli.withSandbox(options, id, async ({ info }) => {
        if (options.json) return await json(cli.io, info);
        for (const [name, value] of Object.entries(info)) {
          const text = typeof value === 'object' ? pairs(value) : String(value);
          await line(cli.io.stdout, `${`${name}:`.padEnd(17)}${text}`.trimEnd());
        }
      });
    }),
  );
}

function pairs(value: object): string {
  return Object.entries(value)
    .map(([name, item]) => `${name}=${typeof item === 'object' ? JSON.stringify(item) : item}`)
    .join(' ');
}
