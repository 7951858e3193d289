import type { Event } from '@torpor/sdk';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { EXIT, exitCodeOfSignal } from '../exit-codes.ts';
import { line } from '../io.ts';
import { formatLabels } from '../output/units.ts';

interface EventsOptions extends CommonOptions {
  readonly after?: string;
  readonly type?: string;
  readonly resource?: string;
  readonly follow: boolean;
}

export function registerEvents(cli: CliContext): void {
  cli
    .command('events', 'print what happens to the resources of the team, until interrupted')
    .option('--after <id>', 'begin after this event; 0 prints all that are kept, which is a week')
    .option('--type <type>', 'only events of this type, or of a kind: sandbox.*')
    .option('--resource <id>', 'only events of this sandbox, snapshot or key')
    .option('--no-follow', 'exit when all events have been printed')
    .addHelpText(
      'after',
      `
With --json each line is an event.

Examples:
  torpor events --type 'sandbox.*'
  torpor events --after 0 --no-follow --json`,
    )
    .action(
      cli.action(async (options: EventsOptions, _command: Command) =>
        cli.withTorpor(options, async (torpor) => {
          const interrupted = new AbortController();
          const unsubscribe = cli.io.onSignal((signal) => interrupted.abort(signal));
          const events = torpor.events.follow({
            after: options.after,
            type: options.type,
            resourceId: options.resource,
            follow: options.follow,
            signal: interrupted.signal,
          });
          try {
            for await (const event of events) {
              await line(cli.io.stdout, options.json ? JSON.stringify(event) : described(event));
            }
            return EXIT.ok;
          } catch (error) {
            if (interrupted.signal.aborted) return exitCodeOfSignal(interrupted.signal.reason);
            throw error;
          } finally {
            unsubscribe();
          }
        }),
      ),
    );
}

function described({ id, created_at, type, status, resource, actor, metadata }: Event): string {
  const who = actor.name ?? actor.id ?? actor.type;
  return [created_at, id, type, status, resource.id, `by ${who}`, formatLabels(metadata)]
    .join('  ')
    .trimEnd();
}
