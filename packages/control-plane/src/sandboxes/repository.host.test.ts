import { newId, type SandboxState } from '@torpor/protocol';
import { Fleet, recordingLogger } from '@torpor/testkit/control-plane';
import type { Kysely } from 'kysely';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { SYSTEM } from '../auth/principal.ts';
import { openDatabase } from '../database/database.ts';
import type { Database, NewSandboxRow, SandboxRow } from '../database/schema.ts';
import { OperationLocks } from '../operations/locks.ts';
import { SandboxRepository } from './repository.ts';

const LOST = { state: 'error', reason: 'It is lost.' } as const;

let fleet: Fleet;
let db: Kysely<Database>;
let sandboxes: SandboxRepository;
let row: SandboxRow;
const teamId = newId('team');
const { logger } = recordingLogger();

function newRow(id = newId('sandbox'), state: SandboxState = 'creating'): NewSandboxRow {
  return {
    id,
    team_id: teamId,
    host_id: 'local',
    template: 'base',
    state,
    vcpus: 1,
    memory_mb: 128,
    timeout_sec: 0,
    allow_internet: true,
    metadata: '{}',
    versions: '{}',
  };
}

const current = () => sandboxes.findById(row.id);

beforeAll(async () => {
  fleet = await Fleet.open();
  db = await openDatabase(fleet.connection, logger);
  sandboxes = new SandboxRepository(db);
  await db.insertInto('teams').values({ id: teamId, name: 'Team' }).execute();
  const host = { id: 'local', kind: 'local', name: 'here', state: 'online' } as const;
  await db
    .insertInto('hosts')
    .values({ ...host, audit_team_id: teamId })
    .execute();
});
afterAll(async () => {
  await db.destroy();
  await fleet[Symbol.asyncDispose]();
});
beforeEach(async () => {
  const { id } = newRow();
  await sandboxes.insert([newRow(id, 'running')]);
  row = (await sandboxes.findById(id)) as SandboxRow;
});

test('a new sandbox is creating, for any given row', () => {
  expect(row).toMatchObject({ state: 'creating', revision: 0 });
});

test('a state changes only as the table allows', async () => {
  await expect(sandboxes.transition(row.id, 'creating', 'paused')).rejects.toThrow(
    'cannot become paused',
  );
  expect(await current()).toEqual(row);
  const running = await sandboxes.transition(row.id, 'creating', 'running', { vcpus: 2 });
  expect(running).toMatchObject({ state: 'running', vcpus: 2, revision: 1 });
});

test('a transition from a state that the row is no longer in changes nothing', async () => {
  await sandboxes.transition(row.id, 'creating', 'error');
  expect(await sandboxes.transition(row.id, 'creating', 'running')).toBeUndefined();
  expect((await current())?.state).toBe('error');
});

test('a report about a row that was written after it was read is not recorded', async () => {
  await sandboxes.transition(row.id, 'creating', 'running');
  expect(await sandboxes.recordReport(row, LOST)).toBe(false);
  expect(await sandboxes.recordAsHolder(row, LOST)).toBeUndefined();
  expect((await current())?.state).toBe('running');
});

test('reports about a row that an operation has locked are recorded by its holder only, even if it died', async () => {
  const locks = new OperationLocks({ db, logger });
  const intent = { kind: 'sandbox.create', teamId, actor: SYSTEM } as const;
  await locks.run([row.id], intent, async () => {
    expect(await sandboxes.recordReport(row, LOST)).toBe(false);
    await locks.expireAll();
    expect(await sandboxes.recordReport(row, LOST)).toBe(false);
    expect(await sandboxes.recordAsHolder(row, LOST)).toMatchObject(LOST);
  });
  const after = (await current()) as SandboxRow;
  expect(await sandboxes.recordReport(after, { state: 'running', reason: null })).toBe(true);
});

test('a stopped sandbox stays stopped', async () => {
  const destroying = await sandboxes.transition(row.id, 'creating', 'destroying');
  const stopped = await sandboxes.transition(row.id, 'destroying', 'stopped');
  expect(stopped).toMatchObject({ state: 'stopped', revision: 2 });
  const last = stopped as SandboxRow;
  expect(await sandboxes.recordReport(last, { state: 'running', reason: null })).toBe(false);
  expect(await sandboxes.recordAsHolder(last, { state: 'running', reason: null })).toBeUndefined();
  expect(await sandboxes.adopt(newRow(row.id, 'running'))).toBe(false);
  expect(destroying?.state).toBe('destroying');
  expect(await current()).toEqual(stopped);
});

test('a sandbox is adopted once, with an event', async () => {
  const id = newId('sandbox');
  // Not from a host that has been deleted.
  expect(await sandboxes.adopt({ ...newRow(id, 'paused'), host_id: 'deleted' })).toBe(false);
  const adopted = await Promise.all([1, 2, 3].map(() => sandboxes.adopt(newRow(id, 'paused'))));
  expect(adopted.filter(Boolean)).toHaveLength(1);
  expect((await sandboxes.findById(id))?.state).toBe('paused');
  expect(await fleet.events(id)).toMatchObject([{ kind: 'sandbox.adopt', status: 'success' }]);
});
