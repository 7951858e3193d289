import type { Torpor, Webhook } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import { type Command, Option } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { EXIT } from '../exit-codes.ts';
import { json, line } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import { table } from '../output/table.ts';

interface CreateOptions extends CommonOptions {
  readonly events: string;
  readonly format: Webhook['format'];
}

interface UpdateOptions extends CommonOptions {
  readonly url?: string;
  readonly events?: string;
  readonly format?: Webhook['format'];
  readonly enable?: true;
  readonly disable?: true;
}

interface DeliveriesOptions extends CommonOptions {
  readonly state?: 'pending' | 'delivered' | 'dead';
}

export function registerWebhook(cli: CliContext): void {
  const webhooks = cli.group('webhook', 'send events of the team to addresses');
  registerCreate(cli, webhooks);
  registerUpdate(cli, webhooks);
  registerRotateSecret(cli, webhooks);
  registerList(cli, webhooks);
  registerRemove(cli, webhooks);
  registerTest(cli, webhooks);
  registerDeliveries(cli, webhooks);
}

function registerCreate(cli: CliContext, webhooks: Command): void {
  cli
    .command(
      'create <name> <url>',
      'create a webhook and print the secret of its signatures',
      webhooks,
    )
    .requiredOption(
      '-e, --events <types>',
      'types of events, separated by commas, e.g. sandbox.*,snapshot.create',
    )
    .addOption(formatOption().default('json'))
    .action(
      cli.action(async (name: string, url: string, options: CreateOptions, _command: Command) => {
        const { format } = options;
        const eventTypes = options.events.split(',');
        await cli.withTorpor(options, async (torpor) => {
          const created = await torpor.webhooks.create({ name, url, format, eventTypes });
          if (options.json) return await json(cli.io, created);
          await line(cli.io.stdout, created.secret);
          printStatus(cli.io, `${created.id} is created; the secret cannot be shown again`);
        });
      }),
    );
}

function registerUpdate(cli: CliContext, webhooks: Command): void {
  cli
    .command('update <name>', 'change a webhook; what no option names stays as it is', webhooks)
    .option('--url <url>', 'send to another address; the secret stays the same')
    .option('-e, --events <types>', 'types of events, separated by commas, instead of the others')
    .addOption(formatOption())
    .option('--disable', 'queue and send nothing until it is enabled')
    .addOption(new Option('--enable', 'send again').conflicts('disable'))
    .action(
      cli.action(async (name: string, options: UpdateOptions, _command: Command) => {
        const { url, format, events, enable, disable } = options;
        const enabled = enable ?? (disable ? false : undefined);
        const changes = { url, format, enabled, eventTypes: events?.split(',') };
        if (Object.values(changes).every((change) => change === undefined)) {
          throw new TorporError('invalid_request', 'There is nothing to change.', {
            remedy: 'Give at least one of --url, --events, --format, --enable and --disable.',
          });
        }
        await cli.withTorpor(options, async (torpor) => {
          const { id } = await findWebhook(torpor, name);
          const updated = await torpor.webhooks.update(id, changes);
          await (options.json ? json(cli.io, updated) : line(cli.io.stdout, updated.name));
        });
      }),
    );
}

function registerRotateSecret(cli: CliContext, webhooks: Command): void {
  cli
    .command(
      'rotate-secret <name>',
      'replace the secret of the signatures, and print the new one',
      webhooks,
    )
    .addHelpText('after', '\nFor a day each message has a signature with the previous secret too.')
    .action(
      cli.action(async (name: string, options: CommonOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const { id } = await findWebhook(torpor, name);
          const rotated = await torpor.webhooks.rotateSecret(id);
          await (options.json ? json(cli.io, rotated) : line(cli.io.stdout, rotated.secret));
        });
      }),
    );
}

function formatOption(): Option {
  return new Option('--format <format>', 'what is sent').choices(['json', 'slack', 'discord']);
}

function registerList(cli: CliContext, webhooks: Command): void {
  cli.command('ls', 'list the webhooks', webhooks, { isDefault: true }).action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const listed = await torpor.webhooks.list();
        if (options.json) return await json(cli.io, listed);
        const rows = listed.map(({ id, name, host, format, enabled, event_types }) => [
          id,
          name,
          host,
          format,
          enabled ? 'yes' : 'no',
          event_types.join(','),
        ]);
        const header = ['ID', 'NAME', 'HOST', 'FORMAT', 'ENABLED', 'EVENTS'];
        await line(cli.io.stdout, table(header, rows));
      });
    }),
  );
}

function registerRemove(cli: CliContext, webhooks: Command): void {
  cli.command('rm <names...>', 'delete webhooks, by name or id', webhooks).action(
    cli.action(async (names: string[], options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        for (const name of new Set(names)) {
          await torpor.webhooks.delete((await findWebhook(torpor, name)).id);
          if (!options.json) await line(cli.io.stdout, name);
        }
        if (options.json) await json(cli.io, { removed: names });
      });
    }),
  );
}

function registerTest(cli: CliContext, webhooks: Command): void {
  cli
    .command(
      'test <name>',
      'send a test event now; the exit status is 1 if it is not accepted',
      webhooks,
    )
    .action(
      cli.action(async (name: string, options: CommonOptions, _command: Command) =>
        cli.withTorpor(options, async (torpor) => {
          const attempt = await torpor.webhooks.test((await findWebhook(torpor, name)).id);
          if (options.json) await json(cli.io, attempt);
          else if (attempt.accepted)
            await line(cli.io.stdout, `accepted, status ${attempt.status}`);
          else await line(cli.io.stdout, `not accepted: ${attempt.error}`);
          return attempt.accepted ? EXIT.ok : EXIT.failure;
        }),
      ),
    );
}

function registerDeliveries(cli: CliContext, webhooks: Command): void {
  cli
    .command('deliveries <name>', 'list what was sent and is to be sent, newest first', webhooks)
    .addOption(
      new Option('--state <state>', 'only those in this state; dead: given up').choices([
        'pending',
        'delivered',
        'dead',
      ]),
    )
    .action(
      cli.action(async (name: string, options: DeliveriesOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const { id } = await findWebhook(torpor, name);
          const listed = await torpor.webhooks.deliveries(id, { state: options.state });
          if (options.json) return await json(cli.io, listed);
          const rows = listed.map((delivery) => [
            delivery.event_id,
            delivery.event_type,
            delivery.resource_id,
            delivery.state,
            String(delivery.attempts),
            delivery.last_error ?? '',
          ]);
          const header = ['EVENT', 'TYPE', 'RESOURCE', 'STATE', 'ATTEMPTS', 'ERROR'];
          await line(cli.io.stdout, table(header, rows));
        });
      }),
    );

  cli
    .command('redeliver <name>', 'send again what was given up; prints how many events', webhooks)
    .action(
      cli.action(async (name: string, options: CommonOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const queued = await torpor.webhooks.redeliver((await findWebhook(torpor, name)).id);
          await (options.json ? json(cli.io, { queued }) : line(cli.io.stdout, String(queued)));
        });
      }),
    );
}

/** By name or id. Throws `not_found`. */
async function findWebhook(torpor: Torpor, name: string): Promise<Webhook> {
  const listed = await torpor.webhooks.list();
  const found = listed.find((webhook) => webhook.name === name || webhook.id === name);
  if (found !== undefined) return found;
  throw new TorporError('not_found', `The team has no webhook ${JSON.stringify(name)}.`, {
    remedy: '`torpor webhook` lists the webhooks.',
  });
}
