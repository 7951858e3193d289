import type { Team, Torpor } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import { type Command, Option } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import { table } from '../output/table.ts';
import { formatAge } from '../output/units.ts';

interface InviteOptions extends CommonOptions {
  readonly role: 'admin' | 'member';
  readonly email?: string;
}

export function registerTeam(cli: CliContext): void {
  const group = cli.group('team', 'teams, their members and invitations');
  registerTeams(cli, group);
  registerMembers(cli, group);
  registerInvitations(cli, group);
}

function registerTeams(cli: CliContext, group: Command): void {
  cli.command('ls', 'list the teams that you are in', group, { isDefault: true }).action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const teams = await torpor.teams.list();
        if (options.json) return await json(cli.io, teams);
        const current = (await torpor.account.whoami()).team?.id;
        const rows = teams.map(({ id, name, role }) => [
          id === current ? '*' : '',
          id,
          name,
          role ?? '',
        ]);
        await line(cli.io.stdout, table(['', 'ID', 'NAME', 'ROLE'], rows));
      });
    }),
  );

  cli.command('create <name>', 'make a team, and own it', group).action(
    cli.action(async (name: string, options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const team = await torpor.teams.create(name);
        if (options.json) await json(cli.io, team);
        else {
          await line(cli.io.stdout, team.id);
          printStatus(cli.io, '`torpor team switch` makes commands act in it.');
        }
      });
    }),
  );

  cli.command('switch <team>', 'choose the team in which the session acts', group).action(
    cli.action(async (team: string, options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const found = await findTeam(torpor, team);
        await torpor.account.switchTeam(found.id);
        if (options.json) await json(cli.io, found);
        else printStatus(cli.io, `In ${found.name} (${found.id}) now.`);
      });
    }),
  );

  cli.command('rename <name>', 'rename the team', group).action(
    cli.action(async (name: string, options: CommonOptions, _command: Command) => {
      await inTeam(cli, options, async (torpor, teamId) => {
        const team = await torpor.teams.rename(teamId, name);
        if (options.json) await json(cli.io, team);
      });
    }),
  );

  cli
    .command('rm <team>', 'delete a team, which must have no sandboxes, snapshots or hosts', group)
    .action(
      cli.action(async (team: string, options: CommonOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const { id } = await findTeam(torpor, team);
          await torpor.teams.delete(id);
          if (options.json) await json(cli.io, { deleted: id });
          else await line(cli.io.stdout, id);
        });
      }),
    );
}

function registerMembers(cli: CliContext, group: Command): void {
  cli.command('members', 'list the members of the team', group).action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      await inTeam(cli, options, async (torpor, teamId) => {
        const members = await torpor.teams.members(teamId);
        if (options.json) return await json(cli.io, members);
        const rows = members.map(({ user_id, email, name, role, joined_at }) => [
          user_id,
          email,
          name,
          role,
          `${formatAge(joined_at)} ago`,
        ]);
        await line(cli.io.stdout, table(['ID', 'EMAIL', 'NAME', 'ROLE', 'JOINED'], rows));
      });
    }),
  );

  cli
    .command('role <member> <role>', 'give a member, by email or id, another role', group)
    .addHelpText(
      'after',
      '\nThe roles are owner, admin and member. A new owner replaces the previous one, who becomes an admin.',
    )
    .action(
      cli.action(
        async (member: string, role: string, options: CommonOptions, _command: Command) => {
          const wanted = parseRole(role);
          await inTeam(cli, options, async (torpor, teamId) => {
            const userId = await findMember(torpor, teamId, member);
            await torpor.teams.setRole(teamId, userId, wanted);
            if (options.json) await json(cli.io, { user_id: userId, role });
          });
        },
      ),
    );

  cli
    .command('remove <member>', 'remove a member, by email or id, and the API keys it made', group)
    .action(
      cli.action(async (member: string, options: CommonOptions, _command: Command) => {
        await inTeam(cli, options, async (torpor, teamId) => {
          const userId = await findMember(torpor, teamId, member);
          await torpor.teams.removeMember(teamId, userId);
          if (options.json) await json(cli.io, { removed: userId });
          else await line(cli.io.stdout, userId);
        });
      }),
    );

  cli.command('leave <team>', 'leave a team', group).action(
    cli.action(async (team: string, options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const { id } = await findTeam(torpor, team);
        await torpor.teams.leave(id);
        if (options.json) await json(cli.io, { left: id });
      });
    }),
  );
}

function registerInvitations(cli: CliContext, group: Command): void {
  cli
    .command('invite', 'make a link with which somebody joins the team, once', group)
    .addOption(
      new Option('--role <role>', 'what the new member is')
        .choices(['admin', 'member'])
        .default('member'),
    )
    .option('--email <email>', 'the only account that may use it (default: any)')
    .action(
      cli.action(async (options: InviteOptions, _command: Command) => {
        await inTeam(cli, options, async (torpor, teamId) => {
          const { role, email } = options;
          const invitation = await torpor.teams.invite(teamId, { role, email });
          if (options.json) return await json(cli.io, invitation);
          await line(cli.io.stdout, invitation.link);
          printStatus(
            cli.io,
            `${invitation.mailed ? 'It is mailed too. ' : ''}It expires at ${invitation.expires_at}. \`torpor join\` accepts it.`,
          );
        });
      }),
    );

  cli.command('invitations', 'list the invitations that can still be accepted', group).action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      await inTeam(cli, options, async (torpor, teamId) => {
        const invitations = await torpor.teams.invitations(teamId);
        if (options.json) return await json(cli.io, invitations);
        const rows = invitations.map(({ id, role, email, expires_at }) => [
          id,
          role,
          email ?? 'anybody',
          expires_at,
        ]);
        await line(cli.io.stdout, table(['ID', 'ROLE', 'FOR', 'EXPIRES'], rows));
      });
    }),
  );

  cli.command('uninvite <id>', 'revoke an invitation', group).action(
    cli.action(async (id: string, options: CommonOptions, _command: Command) => {
      await inTeam(cli, options, async (torpor, teamId) => {
        await torpor.teams.revokeInvitation(teamId, id);
        if (options.json) await json(cli.io, { revoked: id });
        else await line(cli.io.stdout, id);
      });
    }),
  );
}

/** Runs `use` with the team in which the commands act. */
async function inTeam(
  cli: CliContext,
  options: CommonOptions,
  use: (torpor: Torpor, teamId: string) => Promise<void>,
): Promise<void> {
  await cli.withTorpor(options, async (torpor) => {
    const { team } = await torpor.account.whoami();
    if (team === undefined) {
      throw new TorporError('forbidden', 'You are in no team.', {
        remedy: '`torpor team create` makes one; `torpor join` uses an invitation.',
      });
    }
    await use(torpor, team.id);
  });
}

/** By its id, or by a name that only one has. */
async function findTeam(torpor: Torpor, idOrName: string): Promise<Team> {
  const teams = await torpor.teams.list();
  const found = teams.filter(({ id, name }) => id === idOrName || name === idOrName);
  if (found[0] !== undefined && found.length === 1) return found[0];
  throw new TorporError(
    found.length === 0 ? 'not_found' : 'conflict',
    found.length === 0
      ? `You are in no team ${JSON.stringify(idOrName)}.`
      : `Several teams are called ${JSON.stringify(idOrName)}.`,
    { remedy: '`torpor team ls` lists your teams with their ids.' },
  );
}

async function findMember(torpor: Torpor, teamId: string, idOrEmail: string): Promise<string> {
  const members = await torpor.teams.members(teamId);
  const address = idOrEmail.toLowerCase();
  const found = members.find(({ user_id, email }) => user_id === idOrEmail || email === address);
  if (found !== undefined) return found.user_id;
  throw new TorporError('not_found', `The team has no member ${JSON.stringify(idOrEmail)}.`);
}

function parseRole(text: string): 'owner' | 'admin' | 'member' {
  if (text === 'owner' || text === 'admin' || text === 'member') return text;
  throw new TorporError('invalid_request', 'The roles are owner, admin and member.');
}
