import { cli } from '@torpor/testkit/cli';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type HostStack, startHostStack } from '../support/host-stack.ts';

/* `exec -d`, `ps` and `kill`, with the real envd. */

const resources = new AsyncDisposableStack();
let stack: HostStack;
let id: string;

beforeAll(async () => {
  stack = resources.use(await startHostStack());
  id = (await torpor('create')).stdout.trim();
});
afterAll(() => resources.disposeAsync());

function torpor(...args: string[]) {
  return cli(args, { env: { TORPOR_DATA_DIR: stack.dataDir } });
}

async function start(tag: string, script: string): Promise<string> {
  const { stdout } = await torpor('exec', '-d', '-u', 'root', '--tag', tag, id, 'sh', '-c', script);
  expect(stdout).toMatch(/^\d+\n$/);
  return stdout.trim();
}

test('exec -d prints the pid, or JSON if asked', async () => {
  const pid = await start('plain', 'sleep 600');
  const listed = JSON.parse((await torpor('ps', '--json', id)).stdout);
  expect(listed).toContainEqual(expect.objectContaining({ pid: Number(pid), tag: 'plain' }));
  const json = await torpor('exec', '-d', '--json', '-u', 'root', id, '--', 'sleep', '600');
  expect(JSON.parse(json.stdout)).toEqual({
    pid: expect.any(Number),
    tag: expect.stringMatching(/^proc-/),
  });
});

test('exec with an argument that is too long prints one error', async () => {
  const result = await torpor('exec', '-u', 'root', id, '--', 'echo', 'x'.repeat(200_000));
  expect(result.exitCode).toBe(2);
  expect(result.stderr).toBe(
    'torpor: Argument 1 takes more than the 131071 bytes that Linux passes to a program as one argument.\n',
  );
});

test.each([
  ['500ms', '', '500 ms'],
  ['1.5s', '', '1.5 s'],
  ['1', '--json', '1 s'],
])('exec --timeout %s %s reports the timeout as given', async (timeout, json, said) => {
  const options = ['--timeout', timeout, ...(json === '' ? [] : [json])];
  const result = await torpor('exec', ...options, '-u', 'root', id, '--', 'sleep', '600');
  expect(result.exitCode).toBe(124);
  expect(result.stderr).toContain(`The program did not exit within ${said};`);
});

test.each([
  ['reads only its beginning', 'head -c 1', { exitCode: 0, stdout: 'x', stderr: '' }],
  ['closes it', 'exec <&-; sleep 1; echo on; exit 5', { exitCode: 5, stdout: 'on\n', stderr: '' }],
])('exec of a program that gets more input than it reads: %s', async (_, script, result) => {
  const exec = ['exec', '-u', 'root', id, '--', 'sh', '-c', script];
  const env = { TORPOR_DATA_DIR: stack.dataDir };
  expect(await cli(exec, { env, stdin: Buffer.alloc(5_000_000, 'x') })).toMatchObject(result);
});

test.each([
  ['4242', '4242 0 0 /\n'],
  ['4242:4343', '4242 4343 4343 /\n'],
  ['0:4343', '0 4343 4343 /root\n'],
])('exec -u %s, as docker exec', async (user, stdout) => {
  const script = 'echo $(id -u) $(id -g) $(id -G) $HOME';
  const result = await torpor('exec', '-u', user, id, '--', 'sh', '-c', script);
  expect(result).toMatchObject({ exitCode: 0, stdout, stderr: '' });
});

test.each([
  ['nosuchname', 'There is no user "nosuchname" in the sandbox.'],
  ['nosuchname:0', 'There is no user "nosuchname" in the sandbox.'],
  ['root:nosuchgroup', 'There is no group "nosuchgroup" in the sandbox.'],
])('exec -u %s is refused', async (user, sentence) => {
  const result = await torpor('exec', '-u', user, id, '--', 'true');
  expect(result).toMatchObject({ exitCode: 2, stdout: '' });
  expect(result.stderr).toContain(`torpor: ${sentence}`);
});

test.each([
  ['exec', '-C', '/nope', 'ID', '--', 'true'],
  ['exec', '--json', '--cwd', '/nope', 'ID', '--', 'true'],
  ['exec', '-d', '--cwd', '/nope', 'ID', '--', 'true'],
  ['exec', '--tty', '--cwd', '/nope', 'ID', '--', 'true'],
  ['shell', '--cwd', '/nope', 'ID'],
])('the error about a missing directory names the option: %s %s %s', async (command, ...args) => {
  const line = [command, '-u', 'root', ...args.map((arg) => (arg === 'ID' ? id : arg))];
  const { exitCode, stderr } = await torpor(...line);
  expect([exitCode, stderr]).toEqual([
    2,
    "torpor: --cwd '/nope' does not exist.\n" +
      '  → Name a directory that exists in the sandbox and that its user may enter.\n',
  ]);
});

test('ps -a shows how a detached program exited, ps alone does not show it', async () => {
  const pid = await start('failing', 'exit 3');
  const line = new RegExp(`^${pid} +failing +exited 3 +sh -c exit 3$`, 'm');
  await expect.poll(async () => (await torpor('ps', '-a', id)).stdout).toMatch(line);
  expect((await torpor('ps', id)).stdout).not.toContain('failing');
  const listed = JSON.parse((await torpor('ps', '-a', '--json', id)).stdout);
  expect(listed).toContainEqual(
    expect.objectContaining({ pid: Number(pid), tag: 'failing', exit_code: 3 }),
  );
});

test('ps -a does not show programs whose caller waited for them', async () => {
  await torpor('exec', '-u', 'root', id, '--', 'sh', '-c', ': waited for');
  expect((await torpor('ps', '-a', id)).stdout).not.toContain('waited for');
});

test.each([
  ['HUP', 'hangup'],
  ['SIGINT', 'interrupt'],
  ['usr1', 'user defined signal 1'],
  ['9', 'killed'],
  ['SIGXCPU', 'CPU time limit exceeded'],
  [undefined, 'terminated'],
])('kill -s %s', async (signal, status) => {
  const tag = `killed-by-${signal}`;
  // Not by a shell: dash loses an interrupt that arrives while it starts a program.
  await torpor('exec', '-d', '-u', 'root', '--tag', tag, id, 'sleep', '600');
  const options = signal === undefined ? [] : ['-s', signal];
  expect(await torpor('kill', ...options, id, tag)).toMatchObject({ exitCode: 0, stderr: '' });
  await expect
    .poll(async () => (await torpor('ps', '-a', id)).stdout)
    .toMatch(new RegExp(`${tag} +signal: ${status} `));
});

test('an unknown signal is a usage error, whose remedy says where the list is', async () => {
  const result = await torpor('kill', '-s', 'NOPE', id, '1');
  expect(result.exitCode).toBe(2);
  expect(result.stderr).toContain('torpor kill --help');
  expect((await torpor('kill', '--help')).stdout).toContain('HUP INT QUIT');
});
