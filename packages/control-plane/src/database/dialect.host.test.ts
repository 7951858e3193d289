import type { rest } from '@torpor/protocol';
import { errorOf, Fleet } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

let fleet: Fleet;

beforeAll(async () => {
  fleet = await Fleet.open();
});
afterAll(() => fleet[Symbol.asyncDispose]());

async function expectUnavailable(response: Response): Promise<void> {
  const { error } = (await response.json()) as rest.ErrorBody;
  expect(response.status).toBe(503);
  expect(error).toEqual({
    code: 'database_unavailable',
    message: 'The database is not responding.',
    remedy: 'Try again in a few seconds. If the error persists, read the log of the server.',
  });
}

/** The statement that lists the sandboxes of a team. */
const LIST = {
  sql: /from "sandboxes" where "team_id" = \$1 and "state" in/,
  when: 'before',
} as const;

test('a broken connection is database_unavailable, and is replaced', async () => {
  await using member = await fleet.joinSeverable();
  member.links.arm({ ...LIST, cuts: 'connection' });
  await expectUnavailable(await member.call('GET', '/sandboxes'));
  expect((await member.call('GET', '/sandboxes')).status).toBe(200);
});

test('so is a database that cannot be reached', async () => {
  await using member = await fleet.joinSeverable();
  member.links.arm(LIST);
  await expectUnavailable(await member.call('GET', '/sandboxes'));
  await expectUnavailable(await member.call('GET', '/sandboxes'));
  expect(fleet.log()).toContain('Connection terminated unexpectedly');
});

test('so is a server that closes its connections', async () => {
  const member = await fleet.join();
  await fleet.database.query(`
    create function shut_down() returns trigger language plpgsql as
      $$ begin raise exception 'terminating' using errcode = '57P01'; end $$`);
  await fleet.database.query(
    'create trigger shut_down before insert on operations execute function shut_down()',
  );
  await expectUnavailable(await member.call('POST', '/sandboxes', { memory_mb: 128 }));
  await fleet.database.query('drop trigger shut_down on operations');
  expect((await member.create()).status).toBe('running');
});

test('a row of a team that was just deleted is not_found', async () => {
  const member = await fleet.join();
  await fleet.database.query(`
    create function delete_team() returns trigger language plpgsql as
      $$ begin delete from teams where id = new.team_id; return new; end $$`);
  await fleet.database.query(
    `create trigger delete_team before insert on sandboxes
     for each row execute function delete_team()`,
  );
  const response = await member.call('POST', '/sandboxes', {});
  await fleet.database.query('drop trigger delete_team on sandboxes');
  expect(await errorOf(response)).toMatchObject({ status: 404, message: 'The team was deleted.' });
  expect((await member.call('POST', '/sandboxes', {})).status).toBe(201);
});
