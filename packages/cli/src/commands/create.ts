import type { CreateSandboxOptions } from '@torpor/sdk';
import { Command, type Option } from 'commander';
import { assignment, duration, integer, mebibytes, repeated } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import { reportTimings } from '../output/timings.ts';

/** Options of the commands that create a sandbox. */
export interface CreateOptions extends CommonOptions {
  readonly template?: string;
  readonly vcpus?: number;
  readonly memory?: number;
  readonly disk?: number;
  readonly idleTimeout?: number;
  readonly autoPause?: boolean;
  readonly label?: Record<string, string>;
  readonly env?: Record<string, string>;
  readonly internet: boolean;
  readonly hostTag?: string[];
}

interface TimedCreateOptions extends CreateOptions {
  readonly timings?: boolean;
}

const MAX_VCPUS = 1024;

export function addCreateOptions(command: Command): Command {
  return command
    .option(
      '-t, --template <name>',
      'template to start from, an image or a snapshot (default: base)',
    )
    .option('--vcpus <n>', 'virtual CPUs (default: 1)', integer(1, MAX_VCPUS))
    .option('-m, --memory <size>', 'memory, such as 512m or 2g (default: 512m)', mebibytes)
    .option('--disk <size>', 'size of the writable disk, such as 10g (default: 5g)', mebibytes)
    .option(
      '--idle-timeout <time>',
      'destroy it after this time without activity, such as 10m (default: never)',
      duration,
    )
    .option('--auto-pause', 'pause it after the idle timeout instead of destroying it')
    .option('-l, --label <name=value>', 'label to find it by; may be repeated', assignment)
    .option(
      '-e, --env <name=value>',
      'environment variable of its processes; may be repeated',
      assignment,
    )
    .option('--no-internet', 'block access to the internet')
    .option('--host-tag <tag>', 'tag that its host must have; may be repeated', repeated);
}

/** The create options that were given on the command line. */
export function givenCreateOptions(command: Command): readonly Option[] {
  const names = new Set(addCreateOptions(new Command()).options.map(({ long }) => long));
  return command.options.filter(
    (option) =>
      names.has(option.long) && command.getOptionValueSource(option.attributeName()) === 'cli',
  );
}

export function createRequest(options: CreateOptions): CreateSandboxOptions {
  return {
    template: options.template,
    vcpus: options.vcpus,
    memoryMiB: options.memory,
    diskSizeMiB: options.disk,
    idleTimeoutMs: options.idleTimeout,
    autoPause: options.autoPause,
    metadata: options.label,
    envs: options.env,
    allowInternet: options.internet,
    hostTags: options.hostTag,
  };
}

export function registerCreate(cli: CliContext): void {
  addCreateOptions(cli.command('create', 'create a sandbox and print its id'))
    .option('--timings', 'print how long each phase took')
    .addHelpText(
      'after',
      `
Examples:
  torpor create
  torpor create --memory 2g --vcpus 2 --idle-timeout 10m --auto-pause
  id=$(torpor create --template warm --label job=42)`,
    )
    .action(
      cli.action(async (options: TimedCreateOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          if (cli.io.stderr.isTTY && !options.json) printStatus(cli.io, 'starting a sandbox…');
          const { id, info } = await torpor.sandboxes.create(createRequest(options));
          await (options.json ? json(cli.io, info) : line(cli.io.stdout, id));
          await reportTimings(cli.io, info.timings, options);
        });
      }),
    );
}
