import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DEFAULT_DISK_MIB } from '@torpor/agent/testing';
import type { rest } from '@torpor/protocol';
import { runTorpor, TorporProcess } from '@torpor/testkit/cli';
import { openDataDirWithBoots } from '@torpor/testkit/guests';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CACHE_DIR, vmmsOf } from '../agent/agent-under-test.ts';

/** For emulated machines that share two processors with others. */
const SLOW = 10 * 60_000;

/** Counts in RAM, holds a socket open, and sends its pid and its count to each client. */
const COUNTER = `
import os, socket, threading, time
count, name = 0, os.urandom(8).hex()
server = socket.create_server(('127.0.0.1', 7777))
def run():
    global count
    while True:
        count += 1
        time.sleep(0.05)
threading.Thread(target=run, daemon=True).start()
while True:
    client, _ = server.accept()
    client.sendall(f'{name} {count}'.encode())
    client.close()
`;
/** In the shell, because Python takes seconds to start in an emulated guest. Fails until the counter listens. */
const ASK = ['bash', '-c', 'exec 3<> /dev/tcp/127.0.0.1/7777 && cat <&3'];

interface CounterState {
  readonly name: string;
  readonly count: number;
}

let resources: AsyncDisposableStack;
let dataDir: string;
/** The source of all others, its counter's last reply, and the sandboxes from its snapshot. */
let source: string;
let last: CounterState;
let made: string[];

beforeAll(async () => {
  resources = new AsyncDisposableStack();
  const shape = { vcpus: 1, memoryMiB: 256, diskMiB: DEFAULT_DISK_MIB };
  dataDir = resources.use(await openDataDirWithBoots(CACHE_DIR, shape)).path;
  resources.use(await TorporProcess.start(dataDir));
  resources.defer(async () => void (await torpor('rm', '--all', '--yes')));
});
afterAll(() => resources.disposeAsync());

function torpor(...args: readonly string[]) {
  return runTorpor(dataDir, args);
}

/** The output of a command that must succeed. */
async function output(...args: readonly string[]): Promise<string> {
  const result = await torpor(...args);
  expect(result, `torpor ${args.join(' ')}: ${result.stderr}`).toMatchObject({ exitCode: 0 });
  return result.stdout.trim();
}

const run = (id: string, ...command: string[]) => output('exec', id, '--', ...command);
const shell = (id: string, script: string) => run(id, 'sh', '-c', script);

async function ask(id: string): Promise<CounterState> {
  const [name = '', count] = (await run(id, ...ASK)).split(' ');
  return { name, count: Number(count) };
}

/** The process continues where it was: it has the same pid, and its count has not restarted. */
async function expectToContinue(id: string): Promise<void> {
  const now = await ask(id);
  expect(now.name).toBe(last.name);
  expect(now.count).toBeGreaterThanOrEqual(last.count);
  await expect
    .poll(async () => (await ask(id)).count, { timeout: SLOW })
    .toBeGreaterThan(now.count);
}

const phases = (timings: rest.Sandbox['timings']) => timings?.map(({ phase }) => phase) ?? [];

async function verified(): Promise<rest.BuildReport[]> {
  const reports: rest.BuildReport[] = JSON.parse(await output('builds', 'verify', '--json'));
  expect(reports.map(({ fault }) => fault)).toEqual(reports.map(() => undefined));
  return reports;
}

test(
  'a paused sandbox uses nothing of the host but disk, and continues when it is resumed',
  async () => {
    source = await output('create', '-m', '256');
    await shell(source, 'echo kept > note');
    await output('exec', '-d', '--tag', 'counter', source, '--', 'python3', '-c', COUNTER);
    await expect
      .poll(async () => (await torpor('exec', source, '--', ...ASK)).exitCode, { timeout: SLOW })
      .toBe(0);
    last = await ask(source);

    const paused: rest.Sandbox = JSON.parse(await output('pause', source, '--json'));
    expect(paused).toMatchObject({ id: source, status: 'paused' });
    expect(phases(paused.timings)).toContain('total');
    expect(await vmmsOf(source)).toEqual([]);
    expect(await output('ls', '-q', '--state', 'paused')).toBe(source);
    expect((await torpor('exec', source, '--', 'true')).exitCode).toBe(125);
    expect((await torpor('pause', source, '--strict')).exitCode).toBe(5);

    const resumed: rest.Sandbox = JSON.parse(await output('resume', source, '--json'));
    expect(resumed).toMatchObject({ id: source, status: 'running' });
    expect(phases(resumed.timings)).toContain('total');
    expect((await torpor('resume', source, '--strict')).exitCode).toBe(5);
    await expectToContinue(source);
    expect(await shell(source, 'cat note')).toBe('kept');
  },
  SLOW,
);

test(
  'a snapshot has its name, and its source is left paused',
  async () => {
    last = await ask(source);
    const defaults = ['--default-user', 'user', '--default-env', 'ORIGIN=warm'];
    expect(await output('snapshot', source, '--name', 'warm', ...defaults)).toBe('warm');
    expect(await output('ls', '-q', '--state', 'paused')).toBe(source);
    expect((await torpor('snapshot', source, '--name', 'warm')).exitCode).toBe(5);
    expect((await torpor('snapshot', source, '--name', 'base')).exitCode).toBe(5);
    const [warm]: rest.Snapshot[] = JSON.parse(
      await output('templates', '--type', 'snapshot', '--json'),
    );
    expect(warm).toMatchObject({ name: 'warm', type: 'snapshot', vcpus: 1, memory_mb: 256 });
    expect(warm?.size_bytes).toBeGreaterThan(0);
  },
  SLOW,
);

test(
  'two sandboxes that are created from it at once are independent copies',
  async () => {
    expect((await torpor('create', '-t', 'warm', '-m', '512')).exitCode).toBe(2);
    made = await Promise.all([1, 2].map(() => output('create', '-t', 'warm')));
    for (const id of made) {
      await expectToContinue(id);
      expect(await shell(id, 'cat note; hostname; echo $ORIGIN')).toBe(`kept\n${id}\nwarm`);
      await shell(id, `echo ${id} > own`);
    }
    for (const id of made) expect(await shell(id, 'cat own')).toBe(id);
  },
  SLOW,
);

test(
  'a fork has the state of its source, which keeps running',
  async () => {
    const [parent = '', other = ''] = made;
    await output('rm', other);
    last = await ask(parent);
    const copies = (await output('fork', parent, '-n', '2')).split('\n');
    expect(copies).toHaveLength(2);
    for (const id of [...copies, parent]) {
      await expectToContinue(id);
      expect(await shell(id, 'cat own; hostname')).toBe(`${parent}\n${id}`);
    }
    made = [parent, ...copies];
  },
  SLOW,
);

test(
  'sandboxes that were created from a deleted snapshot keep working',
  async () => {
    await output('templates', 'rm', 'warm');
    await output('builds', 'gc');
    expect((await torpor('create', '-t', 'warm')).exitCode).toBe(3);
    for (const id of made) await expectToContinue(id);
    const references = (await verified()).flatMap((report) => report.references);
    for (const id of [...made, source]) expect(references).toContain(`sandbox ${id}`);
  },
  SLOW,
);

test(
  'a sandbox with auto-pause is paused when its idle timeout expires',
  async () => {
    const id = await output('create', '-m', '256', '--idle-timeout', '1s', '--auto-pause');
    await expect
      .poll(() => output('ls', '-q', '--state', 'paused'), { timeout: SLOW })
      .toContain(id);
    expect(await vmmsOf(id)).toEqual([]);
    made.push(id);
  },
  SLOW,
);

test(
  'when all are destroyed, gc leaves nothing but the kept boot',
  async () => {
    await output('rm', ...made, source);
    await output('builds', 'gc');
    const left = await verified();
    expect(left.map(({ references }) => references)).toEqual([
      [expect.stringMatching(/^kept-boot /)],
    ]);
    expect(await readdir(join(dataDir, 'builds'))).toEqual(left.map(({ build_id }) => build_id));
    expect(JSON.parse(await output('builds', 'gc', '--json'))).toEqual({
      removed_build_ids: [],
      freed_bytes: 0,
    });
    expect(await readdir(join(dataDir, 'sandboxes'))).toEqual([]);
  },
  SLOW,
);
