import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { type CliInput, cli, TORPOR, temporaryDataDir } from '@torpor/testkit/cli';
import { type Harness, MemoryHost, startHarness, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness({ agents: { host: '127.0.0.1', port: 0 } });
});
afterAll(async () => harness[Symbol.asyncDispose]());

function torpor(args: readonly string[], input: CliInput = {}) {
  return cli(args, { ...input, env: { TORPOR_DATA_DIR: harness.dataDir, ...input.env } });
}

async function ok(...args: string[]): Promise<string> {
  const { stdout, stderr, exitCode } = await torpor(args);
  expect(exitCode, stderr).toBe(0);
  return stdout;
}

test('a host is created, joins with the command that is printed, is tagged, drained and deleted', async () => {
  const command = await ok('host', 'create', 'rack-3', '--tag', 'gpu', 'big');
  const [, join_url = '', token = ''] =
    /^torpor agent --join (https:\/\/127\.0\.0\.1:\d+) (tpj_\w+)\n$/.exec(command) ?? [];
  await using host = await MemoryHost.make();
  await host.start({ join_url, token });
  const { id } = host;
  await until(async () =>
    new RegExp(`^${id} +rack-3 +online +4 +4096 MiB +\\d+s ago +gpu,big$`, 'm').test(
      await ok('host'),
    ),
  );
  expect(await ok('host', 'tag', id, 'gpu', '--remove')).toBe('big\n');
  expect(await ok('host', 'tag', id, 'near', 'big')).toBe('big near\n');
  expect(await ok('host', 'drain', 'rack-3')).toBe(`${id}\n`);
  expect(await ok('host', 'info', id)).toMatch(/^draining: +yes$/m);
  expect(await ok('host', 'undrain', id.slice(0, 8), 'rack-3')).toBe(`${id}\n`);
  expect((await torpor(['host', 'drain', 'rack-3', 'rack-4'])).stderr).toContain('"rack-4"');
  const twin = /(ho\w+): run/.exec((await torpor(['host', 'create', 'rack-3'])).stderr)?.[1] ?? '';
  const ambiguous = await torpor(['host', 'drain', 'rack-3']);
  expect(ambiguous.exitCode).toBe(5);
  expect((await torpor(['host', 'rm', ''])).exitCode).toBe(3);
  expect(ambiguous.stderr).toContain(twin);
  expect(await ok('host', 'rm', twin)).toBe(`${twin}\n`);
  expect(JSON.parse(await ok('host', 'info', id, '--json'))).toMatchObject({
    id,
    draining: false,
    address: host.address,
    tags: ['big', 'near'],
  });
  const empty = await torpor(['host', 'rm', '--preview', id]);
  expect(empty).toMatchObject({ exitCode: 0, stdout: '' });
  expect(empty.stderr).toContain('nothing would be lost');
  // On the machine itself, which has no API.
  const doctor = await torpor(['doctor', '--json'], { env: { TORPOR_DATA_DIR: host.dataDir } });
  const { checks } = JSON.parse(doctor.stdout);
  expect(checks).not.toContainEqual(expect.objectContaining({ id: 'server' }));
  expect(checks).toContainEqual({
    id: 'enrolment',
    state: 'found',
    detail: expect.stringContaining(`the host ${id} of ${join_url}`),
  });
  await ok('host', 'drain', 'local');
  const sandbox = (await ok('create')).trim();
  await ok('pause', sandbox);
  expect(await ok('host', 'rm', '--preview', id)).toBe(`${id}  sandbox   ${sandbox}  paused\n`);
  const refused = await torpor(['host', 'rm', id]);
  expect(refused.exitCode).toBe(5);
  expect(refused.stderr).toContain(sandbox);
  expect(await ok('host', 'rm', '--force', id)).toBe(`${id}\n`);
  expect((await torpor(['host', 'info', id])).exitCode).toBe(3);
  expect(await ok('host', 'undrain', 'local')).toBe('local\n');
});

test('the host of the running server is listed, and not deleted', async () => {
  expect(await ok('host', 'ls')).toMatch(/^local +\S+ +online/m);
  const { exitCode, stderr } = await torpor(['host', 'rm', 'local']);
  expect(exitCode).toBe(5);
  expect(stderr).toContain('torpor up');
});

test.each([
  [['agent', '--join', 'https://127.0.0.1:7071'], 'TOKEN'],
  [['agent', 'tpj_0'], 'TOKEN'],
  [['agent', '--host-address', 'nowhere'], 'port'],
  [['control-plane', '--agent-port', '70000'], '65535'],
  [['host', 'create'], 'name'],
])('%j is refused', async (args, message) => {
  const { exitCode, stderr } = await torpor(args);
  expect(exitCode).toBe(2);
  expect(stderr).toContain(message);
});

test('control-plane runs without an agent, says where agents join, and stops at a signal', async () => {
  await using dataDir = await temporaryDataDir();
  const args = ['control-plane', '--json', '--port', '0', '--agent-port', '0'];
  const child = spawn(process.execPath, [TORPOR, ...args], {
    stdio: ['ignore', 'pipe', 'ignore'],
    env: { ...process.env, TORPOR_DATA_DIR: dataDir.path },
  });
  const exited = once(child, 'exit');
  try {
    const [line] = await once(createInterface({ input: child.stdout }), 'line');
    expect(JSON.parse(String(line))).toMatchObject({
      event: 'ready',
      agent_url: expect.stringMatching(/^https:\/\/.+:\d+$/),
      data_dir: dataDir.path,
    });
    const env = { TORPOR_DATA_DIR: dataDir.path };
    expect(await cli(['host', 'ls', '--json'], { env })).toMatchObject({ stdout: '[]\n' });
    expect((await cli(['create'], { env })).exitCode).toBe(6);
  } finally {
    child.kill('SIGTERM');
  }
  expect(await exited).toEqual([0, null]);
});
