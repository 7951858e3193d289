import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { cli, runTorpor, TORPOR } from '@torpor/testkit/cli';
import { type Harness, startHarness } from '@torpor/testkit/control-plane';
import { afterAll, afterEach, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { openTerminal } from '../support/terminal.ts';

const resources = new AsyncDisposableStack();
let harness: Harness;

beforeAll(async () => {
  harness = resources.use(await startHarness());
});
afterAll(() => resources.disposeAsync());
afterEach(async () => void (await torpor('rm', '--all', '--yes')));

function torpor(...args: string[]) {
  return cli(args, { env: { TORPOR_DATA_DIR: harness.dataDir } });
}

describe('the beginning of an id', () => {
  test('names its sandbox in every command', async () => {
    const { id } = await harness.create();
    const prefix = id.slice(0, 3);
    expect(JSON.parse((await torpor('info', '--json', prefix)).stdout)).toMatchObject({ id });
    expect((await torpor('exec', prefix, '--', 'echo', 'x')).stdout).toBe('x\n');
    expect((await torpor('rm', prefix)).stdout).toBe(`${id}\n`);
  });

  test('is refused if it is too short, unknown, or that of several', async () => {
    const ids = new Set<string>();
    harness.agent.limits.memoryMb = 1e6;
    // Until two ids share the next character, of 36: 40 at most.
    while (new Set([...ids].map((id) => id.slice(0, 3))).size === ids.size) {
      ids.add((await harness.create({ memory_mb: 128 })).id);
    }
    const last = [...ids].at(-1) ?? '';
    expect(await torpor('info', last.slice(0, 3))).toMatchObject({
      exitCode: 5,
      stderr: expect.stringContaining(`sandboxes have an id that begins with ${last.slice(0, 3)}`),
    });
    for (const short of ['s', 'sb']) {
      expect(await torpor('info', short)).toMatchObject({
        exitCode: 2,
        stderr: expect.stringContaining(`Every sandbox id begins with ${short}.`),
      });
    }
    const unknown = await torpor('info', 'sb00');
    expect([unknown.exitCode, unknown.stderr]).toEqual([3, expect.stringContaining('torpor ls')]);
  });
});

test('create --timings prints the time of each phase', async () => {
  const { stdout, stderr } = await torpor('create', '--timings');
  expect(stdout).toMatch(/^sb\w+\n$/);
  expect(stderr).toMatch(/^boot \d+ ms/);
});

test('ls --limit shows the newest', async () => {
  await harness.create();
  const { id } = await harness.create();
  expect((await torpor('ls', '-q', '--limit', '1')).stdout).toBe(`${id}\n`);
});

test('a link to it on the PATH is the command, in any directory', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-path-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  await symlink(TORPOR, join(directory, 'torpor'));
  const { id } = await harness.create();
  const env = { PATH: `${directory}:${process.env.PATH}`, TORPOR_DATA_DIR: harness.dataDir };
  const child = spawn('torpor', ['ls', '-q'], { cwd: '/', env });
  expect(await text(child.stdout)).toBe(`${id}\n`);
});

test('a mistyped command is named', async () => {
  const { stderr, exitCode } = await torpor('creat');
  expect([exitCode, stderr]).toEqual([2, expect.stringContaining('Did you mean create?')]);
});

describe('node', () => {
  test('runs TypeScript in any directory with the SDK, the address and the key', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'torpor-node-'));
    onTestFinished(() => rm(directory, { recursive: true }));
    const file = join(directory, 'program.ts');
    await writeFile(
      file,
      `import { Torpor } from '@torpor/sdk';
      import { isId } from '@torpor/sdk/basics';
      await using torpor = new Torpor();
      const { status }: { status: string } = await torpor.health();
      for await (const { id } of torpor.sandboxes.list()) console.log(id, isId('sandbox', id));
      console.log(status, ...process.argv.slice(2));
      process.exitCode = 3;`,
    );
    const { id } = await harness.create();
    expect(await runTorpor(harness.dataDir, ['node', file, 'a', '--json'])).toEqual({
      exitCode: 3,
      stdout: `${id} true\nok a --json\n`,
      stderr: '',
    });
  });

  test('without a key says how to get one', async () => {
    const result = await cli(['node', 'x.ts'], { env: { TORPOR_DATA_DIR: '/nonexistent' } });
    expect([result.exitCode, result.stderr]).toEqual([3, expect.stringContaining('npm start')]);
  });
});

describe('forward', () => {
  test('forwards a local port to one of a sandbox, until Ctrl-C', async () => {
    const guest = createServer((request, response) => {
      request.pipe(response);
    });
    onTestFinished(() => void guest.close());
    await new Promise<void>((resolve) => guest.listen(0, '127.0.0.2', resolve));
    const { port } = guest.address() as AddressInfo;
    harness.agent.hostIp = '127.0.0.2';
    const { id } = await harness.create();
    using terminal = openTerminal(`exec ${process.execPath} ${TORPOR} forward ${id} :${port}`, {
      TORPOR_DATA_DIR: harness.dataDir,
    });
    const local = /127\.0\.0\.1:(\d+) -> port/;
    await expect.poll(() => terminal.output(), { timeout: 20_000 }).toMatch(local);
    const url = `http://127.0.0.1:${local.exec(terminal.output())?.[1]}/`;
    const body = 'x'.repeat(1_000_000);
    expect(await (await fetch(url, { method: 'POST', body })).text()).toBe(body);
    terminal.type('\x03');
    expect(await terminal.exited).toBe(130);
  });

  test.each(['node', process.execPath])(
    'is terminated by SIGUSR1 as any program, on %s',
    async (node) => {
      harness.agent.hostIp = '127.0.0.2';
      const { id } = await harness.create();
      const child = spawn(node, [TORPOR, 'forward', id, ':8000'], {
        env: { ...process.env, TORPOR_DATA_DIR: harness.dataDir },
      });
      onTestFinished(() => void child.kill('SIGKILL'));
      const stderr = text(child.stderr);
      await once(child.stdout, 'data');
      child.kill('SIGUSR1');
      expect(await once(child, 'exit')).toEqual([null, 'SIGUSR1']);
      expect(await stderr).toBe('');
    },
  );

  test('to a sandbox that is not running says what to do', async () => {
    const { id } = await harness.create();
    await torpor('pause', id);
    const paused = await torpor('forward', id, ':8000');
    expect(paused.exitCode).toBe(5);
    expect(paused.stderr).toContain(
      `is not running, it is paused.\n  → Resume it with \`torpor resume ${id}\``,
    );
    await torpor('rm', id);
    expect((await torpor('forward', id, ':8000')).stderr).toContain('→ Create a new one');
  });

  test.each([
    [
      'a port that is in use',
      'PORT:80',
      [],
      5,
      'Choose another local port, or write :80 for any free one.',
    ],
    ['no address of this machine', ':80', ['--address', '192.0.2.1'], 2, 'with --address.'],
  ])('at %s says what to change', async (_what, template, options, status, remedy) => {
    harness.agent.hostIp = '127.0.0.2';
    const { id } = await harness.create();
    const ports = template.replace('PORT', new URL(harness.controlPlane.url).port);
    const { exitCode, stderr } = await torpor('forward', id, ports, ...options);
    expect([exitCode, stderr]).toEqual([status, expect.stringContaining(remedy)]);
    expect(stderr).toMatch(/^torpor: Cannot listen on port \d+: listen E\w+: .*[^.]\.\n/);
  });

  test.each(['x', '0', '70000', '1:2:3', '99999:1'])('refuses %s as a port', async (port) => {
    const { id } = await harness.create();
    expect((await torpor('forward', id, port)).exitCode).toBe(2);
  });
});

describe('/', () => {
  test('is a page for a browser, and JSON for other clients', async () => {
    const { url } = harness.controlPlane;
    const page = await fetch(url, { headers: { accept: 'text/html,*/*' } });
    expect(page.headers.get('content-type')).toMatch(/^text\/html/);
    expect(await page.text()).toContain('href="/docs"');
    expect(await (await fetch(url)).json()).toMatchObject({ name: 'Torpor', docs: '/docs' });
  });
});

test('an unreadable key and a missing one have different errors', async () => {
  const nobody = 65_534;
  const child = spawnSync(process.execPath, [TORPOR, 'ls'], {
    uid: nobody,
    gid: nobody,
    env: { PATH: process.env.PATH, TORPOR_DATA_DIR: harness.dataDir },
  });
  expect(child.status).toBe(4);
  expect(String(child.stderr)).toContain(
    `you are not allowed to read the one in ${harness.dataDir}`,
  );
  const missing = await cli(['ls'], { env: { TORPOR_DATA_DIR: '/nonexistent' } });
  expect(missing.stderr).toContain('/nonexistent has none');
});
