import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { rest } from '@torpor/protocol';
import { type CliInput, cli } from '@torpor/testkit/cli';
import { type Harness, startHarness } from '@torpor/testkit/control-plane';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

let harness: Harness;
const id = /^sb[a-z0-9]{20}$/;

beforeAll(async () => {
  harness = await startHarness();
});
afterAll(async () => harness[Symbol.asyncDispose]());
// The host of the harness has memory for only a few.
afterEach(async () => void (await torpor(['rm', '--all', '--yes'])));

/** Runs a command that finds the API by the data directory, as for a user on this machine. */
function torpor(args: readonly string[], input: CliInput = {}) {
  return cli(args, { ...input, env: { TORPOR_DATA_DIR: harness.dataDir, ...input.env } });
}

async function create(...args: string[]): Promise<string> {
  const { stdout, exitCode } = await torpor(['create', ...args]);
  expect(exitCode).toBe(0);
  expect(stdout.trim()).toMatch(id);
  return stdout.trim();
}

describe('create, ls, info, rm', () => {
  test('create passes its options on and prints only the id', async () => {
    const sandbox = await create(
      '-m',
      '1g',
      '--vcpus',
      '2',
      '-l',
      'job=x',
      '-e',
      'A=1',
      '--no-internet',
    );
    const request = harness.agent.requests.find(({ sandboxId }) => sandboxId === sandbox);
    expect(request).toMatchObject({
      memoryMb: 1024,
      vcpus: 2,
      envs: { A: '1' },
      denyInternet: true,
    });
    const info = JSON.parse((await torpor(['info', sandbox, '--json'])).stdout);
    expect(info).toMatchObject({ id: sandbox, status: 'running', metadata: { job: 'x' } });
  });

  test('info uses the names of the options and of ls', async () => {
    const sandbox = await create(
      ...['-m', '1g', '--vcpus', '2', '--disk', '1g', '--idle-timeout', '90m', '--auto-pause'],
      ...['--no-internet', '-l', 'job=x', '-l', 'owner=me'],
    );
    const lines = (await torpor(['info', sandbox])).stdout.trimEnd().split('\n');
    const shown = Object.fromEntries(lines.map((text) => text.split(/: +/, 2)));
    expect(shown).toMatchObject({
      id: sandbox,
      state: 'running',
      template: 'base',
      vcpus: '2',
      memory: '1024 MiB',
      disk: '1024 MiB',
      'idle-timeout': '90m',
      'auto-pause': 'yes',
      internet: 'no',
      label: 'job=x owner=me',
    });
    for (const field of Object.keys(rest.sandboxSchema.shape).filter((name) =>
      name.includes('_'),
    )) {
      expect(Object.keys(shown)).not.toContain(field);
    }
    const plain = (await torpor(['info', await create()])).stdout;
    expect(plain).toMatch(/^idle-timeout: +none$/m);
    expect(plain).not.toMatch(/^(label|reason|destroyed):/m);
  });

  test('ls shows it until it is removed', async () => {
    const sandbox = await create('-l', 'test=ls');
    expect((await torpor(['ls', '-q', '-l', 'test=ls'])).stdout).toBe(`${sandbox}\n`);
    const listed = await torpor(['ls']);
    expect(listed.stdout).toMatch(new RegExp(`^${sandbox} +running +base +1 +512 MiB`, 'm'));
    const removed = await torpor(['rm', sandbox]);
    expect(removed).toMatchObject({ exitCode: 0, stdout: `${sandbox}\n` });
    expect((await torpor(['ls', '-q', '-l', 'test=ls'])).stdout).toBe('');
  });

  test('rm removes the sandboxes that it can, and reports the others', async () => {
    const sandbox = await create();
    const result = await torpor(['rm', 'sbnosuchsandbox0000000', sandbox, '--json']);
    expect(result.exitCode).toBe(3);
    expect(JSON.parse(result.stdout)).toEqual(
      expect.arrayContaining([
        { id: sandbox, removed: true },
        {
          id: 'sbnosuchsandbox0000000',
          removed: false,
          error: expect.objectContaining({
            code: 'not_found',
            remedy: '`torpor ls` lists the sandboxes.',
          }),
        },
      ]),
    );
  });

  test('rm --all asks for confirmation, and refuses without a terminal, unless --yes is given', async () => {
    await create();
    const refused = await torpor(['rm', '--all']);
    expect(refused.exitCode).toBe(2);
    expect(refused.stderr).toContain('--yes');
    expect((await torpor(['ls', '-q'])).stdout).not.toBe('');
    expect((await torpor(['rm', '--all', '--yes'])).exitCode).toBe(0);
    expect((await torpor(['ls', '-q'])).stdout).toBe('');
  });
});

describe('exec', () => {
  test('passes output, error output and the exit status on', async () => {
    const sandbox = await create();
    const result = await torpor([
      'exec',
      sandbox,
      '--',
      'sh',
      '-c',
      'echo out; echo err >&2; exit 7',
    ]);
    expect(result).toMatchObject({ exitCode: 7, stdout: 'out\n', stderr: 'err\n' });
  });

  test('needs no -- if the program has no options', async () => {
    const sandbox = await create();
    expect((await torpor(['exec', sandbox, 'echo', '-n', 'hello'])).stdout).toBe('hello');
  });

  test('passes standard input on, byte for byte', async () => {
    const sandbox = await create();
    const stdin = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 256));
    const result = await torpor(['exec', sandbox, '--', 'cat'], { stdin });
    expect(result.stdoutBytes.equals(stdin)).toBe(true);
  });

  test('a signal that terminated the program becomes 128 and its number', async () => {
    const sandbox = await create();
    const { exitCode } = await torpor(['exec', sandbox, '--', 'sh', '-c', 'kill -TERM $$']);
    expect(exitCode).toBe(143);
  });

  test('a program that does not exist is 127, a sandbox that does not is 125', async () => {
    const sandbox = await create();
    expect((await torpor(['exec', sandbox, '--', 'no-such-program'])).exitCode).toBe(127);
    const missing = await torpor(['exec', 'sbnosuchsandbox0000000', '--', 'true']);
    expect(missing.exitCode).toBe(125);
    expect(missing.stderr).toContain('→');
  });

  test('--json collects the result in one line', async () => {
    const sandbox = await create();
    const result = await torpor(['exec', '--json', sandbox, '--', 'sh', '-c', 'echo out; exit 3']);
    expect(result.exitCode).toBe(3);
    expect(JSON.parse(result.stdout)).toMatchObject({ id: sandbox, exit_code: 3, stdout: 'out\n' });
  });

  test('--json passes standard input on too, unless it is disabled', async () => {
    const exec = ['exec', '--json', await create()];
    const stdin = 'x'.repeat(100_000);
    const { stdout } = await torpor([...exec, '--', 'cat'], { stdin });
    expect(JSON.parse(stdout)).toMatchObject({ exit_code: 0, stdout: stdin, truncated: false });
    const empty = await torpor([...exec, '-n', '--', 'cat'], { stdin });
    expect(JSON.parse(empty.stdout)).toMatchObject({ exit_code: 0, stdout: '' });
  });

  test('--json keeps the beginning of each output, and reports that it was truncated', async () => {
    const script = 'head -c 5000000 /dev/zero; echo x >&2; kill -9 $$';
    const exec = ['exec', '--json', await create(), '--', 'sh', '-c', script];
    const { stdout, exitCode } = await torpor(exec);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ stderr: 'x\n', truncated: true, status: expect.any(String) });
    expect(result.stdout).toHaveLength(4 * 1024 * 1024);
    expect(exitCode).toBe(137);
  });

  test('--detach leaves it running; ps shows it and kill terminates it', async () => {
    const sandbox = await create();
    const detached = await torpor(['exec', '-d', '--tag', 'server', sandbox, '--', 'sleep', '600']);
    expect(detached.stdout).toMatch(/^\d+\n$/);
    const pid = detached.stdout.trim();
    expect((await torpor(['ps', sandbox])).stdout).toMatch(
      new RegExp(`^${pid} +server +running +sleep 600$`, 'm'),
    );
    expect((await torpor(['kill', sandbox, 'server'])).exitCode).toBe(0);
    await expect
      .poll(async () => JSON.parse((await torpor(['ps', sandbox, '--json'])).stdout))
      .toEqual([]);
  });
});

describe('run', () => {
  test('exits with the status of the program and leaves no sandbox', async () => {
    const before = (await torpor(['ls', '-q'])).stdout;
    const result = await torpor(['run', '-m', '256', '--', 'sh', '-c', 'echo 42; exit 5']);
    expect(result).toMatchObject({ exitCode: 5, stdout: '42\n' });
    expect((await torpor(['ls', '-q'])).stdout).toBe(before);
  });

  test('leaves no sandbox if the program does not exist', async () => {
    const before = (await torpor(['ls', '-q'])).stdout;
    expect((await torpor(['run', 'no-such-program'])).exitCode).toBe(127);
    expect((await torpor(['ls', '-q'])).stdout).toBe(before);
  });
});

describe('shell', () => {
  test('connects the streams and exits with the status of the shell', async () => {
    const sandbox = await create();
    const result = await torpor(['shell', sandbox], { stdin: 'echo $((6*7)); exit 9\n' });
    expect(result.stdout).toContain('42');
    expect(result.exitCode).toBe(9);
  });
});

describe('logs', () => {
  test('prints the console', async () => {
    const sandbox = await create();
    expect((await torpor(['logs', sandbox])).stdout).toContain('Linux version');
  });
});

describe('env', () => {
  test('prints exports with the local key, under both names', async () => {
    const { api_key } = JSON.parse(
      await readFile(join(harness.dataDir, 'credentials.json'), 'utf8'),
    );
    const { stdout } = await torpor(['env']);
    expect(stdout).toContain(`export TORPOR_API_KEY='${api_key}'`);
    expect(stdout).toContain(`export E2B_API_KEY='${api_key.replace('tpr_', 'e2b_')}'`);
    expect(stdout).toContain(`export TORPOR_API_URL='${harness.controlPlane.url}'`);
  });
});

describe('errors', () => {
  test.each([
    ['shell', '--auto-pause'],
    ['shell', 'ID', '--user', '!'],
    ['shell', 'ID', '-t', 'base'],
    ['shell', 'ID', '-m', '1g'],
    ['shell', 'ID', '--no-internet'],
    ['exec', 'ID', '--tty', '-n', '--', 'true'],
    ['exec', 'ID', '--tty', '--timeout', '2s', '--', 'true'],
    ['run', '--tty', '-n', '--', 'true'],
    ['run', '--tty', '--timeout', '2s', '--', 'true'],
    ['exec', '--json', '--tty', 'ID', '--', 'true'],
    ['run', '--json', '--tty', '--', 'true'],
    ['shell', '--json', 'ID'],
    ['shell', '--json'],
    ['logs', '--json', '--follow', 'ID'],
    ['ls', '--json', '--quiet'],
    ['templates', 'ls', '--json', '--quiet'],
  ])('wrong usage is 2: %s %s %s %s', async (...template) => {
    const sandbox = template.includes('ID') ? await create() : '';
    const { exitCode, stderr } = await torpor(
      template.map((arg) => (arg === 'ID' ? sandbox : arg)),
    );
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(/^torpor: .*--|JSON/m);
  });

  test.each([
    ['lss'],
    ['create', '--memory', 'much'],
    ['create', '--vcpus', '0'],
    ['create', '--label', 'nonsense'],
    ['ls', '--state', 'asleep'],
    ['rm'],
    ['exec'],
    ['kill', 'sb1', '1', '--signal', 'SIGNOPE'],
    ['create', '--auto-pause'],
    ['run', '--auto-pause', '--', 'true'],
    ['run', '--memory', '1m', '--', 'true'],
    ['run', '--memory', '100000g', '--', 'true'],
    ['create', '--memory', '100000g'],
    ['create', '--memory', '1'],
    ['exec', 'ID', '--user', '4294967295', '--', 'true'],
    ['kill', 'ID', 'a b'],
    ['kill', 'ID', ''],
    ['info', 'sb'],
    ['run', '--disk', '1m', '--', 'true'],
    ['run', '--user', '!', '--', 'true'],
    ['run', '--timeout', '9999h', '--', 'true'],
    ['run', '--env', '=x', '--', 'true'],
    ['run', '--', ''],
    ['exec', '', '--', 'true'],
    ['exec', 'ID', '--user', '!', '--', 'true'],
    ['exec', 'ID', '--timeout', '9999h', '--', 'true'],
    ['exec', 'ID', '-d', '--tag', '!', '--', 'true'],
    ['exec', 'ID', '--tag', 'x', '--', 'true'],
    ['exec', 'ID', '--detach', '--timeout', '2s', '--', 'true'],
    ['ls', '--all', '--state', 'running'],
    ['snapshot', 'ID', '--overwrite'],
    ['images'],
    ['ls', '--bogus'],
    ['ls', 'too', 'many'],
    ['info'],
    ['create', '--memory'],
    ['templates', '--type', 'none'],
  ])('wrong usage is 2, and the same error in JSON: %s %s %s %s', async (...template) => {
    const sandbox = template.includes('ID') ? await create() : '';
    const args = template.map((arg) => (arg === 'ID' ? sandbox : arg));
    const result = await torpor(args);
    expect(result).toMatchObject({ exitCode: 2, stdout: '' });
    const [command = '', ...rest] = args;
    const asJson = await torpor([command, '--json', ...rest]);
    expect(asJson.exitCode).toBe(2);
    const { error } = JSON.parse(asJson.stdout);
    expect(['invalid_request', 'capacity_exceeded']).toContain(error.code);
    // Names of the API.
    expect(error.message).not.toMatch(/selector|memory_mb|username|\/v1\//i);
    expect(result.stderr).toContain(`torpor: ${error.message}\n`);
    if (error.remedy !== undefined) expect(result.stderr).toContain(`  → ${error.remedy}\n`);
  });
});
