import { cli } from '@torpor/testkit/cli';
import { type Harness, startHarness, until } from '@torpor/testkit/control-plane';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

let harness: Harness;

beforeAll(async () => {
  harness = await startHarness();
});
afterAll(async () => harness[Symbol.asyncDispose]());
afterEach(async () => {
  const { stdout } = await torpor('templates', '-q', '--type', 'snapshot');
  if (stdout !== '') await torpor('templates', 'rm', ...stdout.trim().split('\n'));
  await torpor('rm', '--all', '--yes');
  harness.agent.builds.failingChildren = 0;
  harness.agent.builds.faults.clear();
});

function torpor(...args: readonly string[]) {
  return cli(args, { env: { TORPOR_DATA_DIR: harness.dataDir } });
}

async function create(...args: string[]): Promise<string> {
  const { stdout, exitCode } = await torpor('create', '-m', '128', ...args);
  expect(exitCode).toBe(0);
  return stdout.trim();
}

describe('pause and resume', () => {
  test('print the id, and the phases if requested', async () => {
    const id = await create();
    expect(await torpor('pause', id, '--timings')).toMatchObject({
      exitCode: 0,
      stdout: `${id}\n`,
      stderr: 'memory 2 ms\n',
    });
    expect((await torpor('ls', '-q', '--state', 'paused')).stdout).toBe(`${id}\n`);
    const prefix = id.slice(0, 12);
    expect((await torpor('pause', prefix)).stdout).toBe(`${id}\n`);
    expect(await torpor('resume', prefix)).toMatchObject({
      exitCode: 0,
      stdout: `${id}\n`,
      stderr: '',
    });
    const paused = JSON.parse((await torpor('pause', id, '--json')).stdout);
    expect(paused).toMatchObject({ id, status: 'paused', timings: [{ phase: 'memory' }] });
    const resumed = await torpor('resume', id, '--idle-timeout', '5m', '--json');
    expect(JSON.parse(resumed.stdout)).toMatchObject({ status: 'running', timeout_sec: 300 });
  });

  test('succeed if the sandbox is already in that state, unless they are strict', async () => {
    const id = await create();
    const done = { exitCode: 0, stdout: `${id}\n`, stderr: '' };
    expect(await torpor('resume', id)).toMatchObject(done);
    const strictly = await torpor('resume', id, '--strict');
    expect(strictly.exitCode).toBe(5);
    expect(strictly.stderr).toMatch(/is not paused, it is running\.\n {2}→ There is nothing to do/);
    // It fails with a new timeout, which would not be applied.
    const unchanged = await torpor('resume', id, '--idle-timeout', '9m');
    expect(unchanged.exitCode).toBe(5);
    expect(unchanged.stderr).toContain('Pause it first: a sandbox gets a new idle timeout');
    expect(await torpor('pause', id)).toMatchObject(done);
    expect(await torpor('pause', id)).toMatchObject(done);
    expect(JSON.parse((await torpor('pause', id, '--json')).stdout)).toMatchObject({
      status: 'paused',
    });
    const paused = await torpor('pause', id, '--strict');
    expect(paused.exitCode).toBe(5);
    expect(paused.stderr).toMatch(/is not running, it is paused\.\n {2}→ There is nothing to do/);
  });

  test('several at once cause one pause or one resume, and all succeed', async () => {
    const id = await create();
    const { builds } = harness.agent;
    for (const [verb, gate, status] of [
      ['pause', 'commitGate', 'paused'],
      ['resume', 'resumeGate', 'running'],
    ] as const) {
      const { promise, resolve } = Promise.withResolvers<void>();
      builds[gate] = promise;
      const calls = harness.agent.count(`${verb}Sandbox`);
      const all = Promise.all([torpor(verb, id), torpor(verb, id), torpor(verb, id)]);
      await until(() => harness.agent.count(`${verb}Sandbox`) > calls);
      // One that arrives during the operation waits for it.
      const late = torpor(verb, id);
      resolve();
      for (const result of [...(await all), await late]) {
        expect(result).toMatchObject({ exitCode: 0, stdout: `${id}\n` });
      }
      expect(harness.agent.count(`${verb}Sandbox`)).toBe(calls + 1);
      expect((await harness.get(id)).status).toBe(status);
    }
  });

  test('status 5 if the state does not allow it, 3 for an unknown sandbox', async () => {
    const id = await create();
    harness.agent.report(id, 'error', 'its VMM died');
    await until(async () => (await harness.get(id)).status === 'error');
    const refused = await torpor('pause', id);
    expect(refused.exitCode).toBe(5);
    expect(refused.stderr).toContain('is not running, it is error: its VMM died');
    expect(refused.stderr).toContain(`torpor rm ${id}`);
    expect((await torpor('pause', 'sbnosuchsandbox0000000')).exitCode).toBe(3);
  });

  test('create --auto-pause', async () => {
    const id = await create('--auto-pause', '--idle-timeout', '60');
    expect(JSON.parse((await torpor('info', id, '--json')).stdout)).toMatchObject({
      auto_pause: true,
      timeout_sec: 60,
    });
  });
});

describe('fork', () => {
  test('prints an id for each copy', async () => {
    const id = await create();
    const { stdout, exitCode } = await torpor('fork', id, '-n', '2');
    expect(exitCode).toBe(0);
    const copies = stdout.trim().split('\n');
    expect(copies).toHaveLength(2);
    const listed = (await torpor('ls', '-q', '--state', 'running')).stdout.trim().split('\n');
    expect(listed.toSorted()).toEqual([...copies, id].toSorted());
  });

  test('reports which copy failed, and exits with an error', async () => {
    const id = await create();
    harness.agent.builds.failingChildren = 1;
    const result = await torpor('fork', id, '--count', '2');
    expect(result.exitCode).toBe(1);
    expect(result.stdout.trim()).toMatch(/^sb[a-z0-9]{20}$/);
    expect(result.stderr).toContain('no more room');
    const json = JSON.parse((await torpor('fork', id, '--json')).stdout);
    expect(json.children).toEqual([{ error: expect.objectContaining({ code: 'vmm_failed' }) }]);
  });
});

describe('snapshot and templates', () => {
  test('a sandbox becomes a template, others are created from it, and it is deleted', async () => {
    const id = await create();
    expect(await torpor('snapshot', id, '--name', 'warm')).toMatchObject({
      exitCode: 0,
      stdout: 'warm\n',
    });
    const { stdout } = await torpor('templates');
    expect(stdout).toMatch(/^warm +snapshot +team +1 +128 MiB +1\.0 MiB +\d+s$/m);
    expect(stdout).toMatch(/^base +base +platform +any +any /m);
    expect((await torpor('templates', 'ls', '-q', '--type', 'base')).stdout).toBe('base\npython\n');
    expect((await torpor('create', '-t', 'warm')).exitCode).toBe(0);
    expect((await torpor('create', '-t', 'warm', '--vcpus', '2')).exitCode).toBe(2);
    const larger = await torpor('create', '-t', 'warm', '-m', '1g');
    expect(larger.stderr).toContain(
      '--memory is 128 MiB in the snapshot warm and cannot be changed to 1024 MiB.',
    );
    expect(await torpor('templates', 'rm', 'warm')).toMatchObject({
      exitCode: 0,
      stdout: 'warm\n',
    });
    expect((await torpor('templates', 'rm', 'warm')).exitCode).toBe(3);
    await torpor('snapshot', id, '-n', 'warm');
    const partly = await torpor('templates', 'rm', 'base', 'nosuch', 'warm', '--json');
    expect(partly.exitCode).toBe(4);
    expect(JSON.parse(partly.stdout)).toEqual([
      { name: 'base', removed: false, error: expect.objectContaining({ code: 'forbidden' }) },
      {
        name: 'nosuch',
        removed: false,
        error: expect.objectContaining({
          code: 'not_found',
          remedy: '`torpor templates` lists the snapshots and images.',
        }),
      },
      { name: 'warm', removed: true },
    ]);
    expect((await torpor('templates', 'rm', 'base')).exitCode).toBe(4);
  });

  test('it has a default user and environment', async () => {
    const id = await create();
    const options = ['--default-user', 'root', '--default-env', 'A=1', '--default-env', 'B=2'];
    const made = await torpor('snapshot', id, '-n', 'warm', '--json', ...options);
    expect(JSON.parse(made.stdout)).toMatchObject({
      default_user: 'root',
      default_env: { A: '1', B: '2' },
    });
    const refused = await torpor('snapshot', id, '--default-user', 'a:b');
    expect(refused.exitCode).toBe(2);
    expect(refused.stderr).toContain('--default-user must be the name of a user of the guest');
  });

  test('a name that is in use needs --overwrite, a reserved one is always refused', async () => {
    const id = await create();
    await torpor('snapshot', id, '-n', 'warm');
    expect((await torpor('snapshot', id, '-n', 'warm')).exitCode).toBe(5);
    expect((await torpor('snapshot', id, '-n', 'warm', '--overwrite')).exitCode).toBe(0);
    expect((await torpor('snapshot', id, '-n', 'base', '--overwrite')).exitCode).toBe(5);
    expect((await torpor('snapshot', id, '-n', '../x')).exitCode).toBe(2);
    const unnamed = JSON.parse((await torpor('snapshot', id, '--json')).stdout);
    expect(unnamed.name).toMatch(/^template-[0-9a-f]{8}$/);
  });
});

describe('builds', () => {
  test('verify shows them and fails for a damaged one, gc removes what nothing needs', async () => {
    await torpor('builds', 'gc');
    const id = await create();
    await torpor('pause', id);
    const sound = await torpor('builds', 'verify');
    expect(sound.exitCode).toBe(0);
    expect(sound.stdout).toMatch(
      new RegExp(`^[0-9a-f-]{36} +1\\.0 MiB +sound +sandbox ${id}$`, 'm'),
    );
    const [build = ''] = harness.agent.builds.ids;
    harness.agent.builds.faults.set(build, 'memory.diff is torn.');
    const damaged = await torpor('builds', 'verify');
    expect(damaged.exitCode).toBe(1);
    expect(damaged.stdout).toMatch(/damaged +memory\.diff is torn\.$/m);
    expect((await torpor('builds', 'gc')).stdout).toBe('0 builds removed, 0 B freed\n');
    await torpor('rm', id);
    expect((await torpor('builds', 'gc')).stdout).toBe('1 build removed, 1.0 MiB freed\n');
    expect(JSON.parse((await torpor('builds', 'verify', '--json')).stdout)).toEqual([]);
  });
});
