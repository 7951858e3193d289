import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdtemp, readdir, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { spawn as spawnPty } from '@lydell/node-pty';
import { instanceTag } from '@torpor/agent/testing';
import { runShell, runTorpor, TORPOR, TorporProcess, temporaryDataDir } from '@torpor/testkit/cli';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { leftovers, vmmsOf } from '../agent/agent-under-test.ts';
import { describeTree, makeTreeOfEveryKind } from '../support/file-tree.ts';
import { readmeBlocks } from '../support/readme.ts';
import { RestClient } from '../support/rest-client.ts';

const MIB = 1024 * 1024;
const LARGE_FILE_MIB = 200;
/** For emulated machines that share two processors with others. */
const SLOW = 10 * 60_000;

let resources: AsyncDisposableStack;
let dataDir: string;
let platform: TorporProcess;

beforeAll(async () => {
  resources = new AsyncDisposableStack();
  dataDir = resources.use(await temporaryDataDir()).path;
  platform = await TorporProcess.start(dataDir);
  resources.defer(() => platform[Symbol.asyncDispose]());
  resources.defer(async () => void (await torpor('rm', '--all', '--yes')));
});
afterAll(() => resources.disposeAsync());

function torpor(...args: readonly string[]) {
  return runTorpor(dataDir, args);
}

/** Processes of this machine with this text in their arguments. */
async function processesNaming(text: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.includes(text)) found.push(pid);
  }
  return found;
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}

describe('one sandbox from create to rm', () => {
  let id: string;

  test('create boots it, and ls shows it', async () => {
    const created = await torpor('create');
    expect(created).toMatchObject({ exitCode: 0, stderr: '' });
    id = created.stdout.trim();
    expect((await torpor('ls', '-q')).stdout).toBe(`${id}\n`);
    expect(await processesNaming(id)).not.toEqual([]);
  });

  test('exec runs Python in it as the user of the image', async () => {
    const result = await torpor('exec', id, '--', 'python3', '-c', 'print(6*7)');
    expect(result).toMatchObject({ exitCode: 0, stdout: '42\n' });
    const who = await torpor('exec', id, '--', 'sh', '-c', 'whoami; pwd; sudo -n whoami');
    expect(who.stdout).toBe('user\n/home/user\nroot\n');
  });

  test(
    'shell is a terminal with colours, its own size, and an exit status',
    async () => {
      // The outer shell shows afterwards whether the terminal was restored.
      const script = `"${process.execPath}" "${TORPOR}" shell ${id}; echo status=$?; stty -a`;
      const terminal = spawnPty('/bin/sh', ['-c', script], {
        name: 'xterm-256color',
        cols: 91,
        rows: 31,
        env: { ...process.env, TORPOR_DATA_DIR: dataDir },
      });
      let screen = '';
      terminal.onData((data) => {
        screen += data;
      });
      const exited = new Promise<void>((resolve) => terminal.onExit(() => resolve()));
      const sees = (text: string | RegExp) =>
        expect.poll(() => screen, { timeout: SLOW }).toMatch(text);
      try {
        await sees(/user@.*\$ $/);
        terminal.write('stty size; tput colors; echo $((6*7))\r');
        await sees(/31 91\r?\n256\r?\n42\r?\n/);
        terminal.resize(100, 40);
        await expect
          .poll(
            () => {
              terminal.write('stty size\r');
              return screen;
            },
            { timeout: SLOW, interval: 1000 },
          )
          .toContain('40 100');
        terminal.write('exit 7\r');
        await exited;
      } finally {
        terminal.kill('SIGKILL');
      }
      expect(screen).toContain('status=7');
      expect(screen).toMatch(/(?<![-\w])icanon\b/);
      expect(screen).toMatch(/(?<![-\w])opost\b/);
      expect(screen).toMatch(/(?<![-\w])echo\b/);
    },
    SLOW,
  );

  test(
    `cp moves ${LARGE_FILE_MIB} MiB in and out unharmed`,
    async () => {
      const directory = await mkdtemp(join(tmpdir(), 'torpor-cp-'));
      try {
        const original = join(directory, 'original');
        const copy = join(directory, 'copy');
        const blocks = Array.from({ length: LARGE_FILE_MIB }, () => randomBytes(MIB));
        await pipeline(Readable.from(blocks), createWriteStream(original));
        const up = await torpor('cp', '--json', '--verify', original, `${id}:large`);
        expect(up).toMatchObject({ exitCode: 0, stderr: '' });
        const checksum = await sha256(original);
        expect(JSON.parse(up.stdout)).toMatchObject({
          bytes: LARGE_FILE_MIB * MIB,
          sha256: checksum,
        });
        expect(await torpor('cp', `${id}:large`, copy)).toMatchObject({ exitCode: 0, stderr: '' });
        expect(await sha256(copy)).toBe(checksum);
      } finally {
        await rm(directory, { recursive: true });
      }
    },
    SLOW,
  );

  test(
    'cp copies a tree of every kind of entry in and out unchanged, and as the user without owners',
    async () => {
      const directory = await mkdtemp(join(tmpdir(), 'torpor-cp-'));
      try {
        const tree = join(directory, 'tree');
        makeTreeOfEveryKind(tree);
        const original = describeTree(tree);
        expect(await torpor('cp', '-a', tree, `${id}:/root`)).toMatchObject({ exitCode: 0 });
        const back = join(directory, 'back');
        expect(await torpor('cp', '-a', `${id}:/root/tree`, back)).toMatchObject({ exitCode: 0 });
        expect(describeTree(back)).toEqual(original);

        await writeFile(join(directory, 'tool'), '#!/bin/sh\nstat -c "%U %a" "$0"', {
          mode: 0o751,
        });
        await torpor('cp', join(directory, 'tool'), `${id}:`);
        expect((await torpor('exec', id, '--', './tool')).stdout).toBe('user 751\n');
        expect(await torpor('cp', `${id}:/etc/shadow`, directory)).toMatchObject({
          exitCode: 4,
          stderr: 'torpor: In the sandbox: /etc/shadow: permission denied\n',
        });
        expect(await torpor('cp', join(directory, 'tool'), `${id}:/etc`)).toMatchObject({
          exitCode: 4,
          stderr: 'torpor: In the sandbox: /etc/tool: permission denied\n',
        });
        const named = await torpor('cp', `${id}:/etc/sudoers.d/.`, join(directory, 'unreadable'));
        expect(named).toMatchObject({
          exitCode: 1,
          stderr: expect.stringContaining('torpor: not copied: user: permission denied\n'),
        });
        expect((await readdir(directory)).toSorted()).toEqual([
          'back',
          'outside',
          'tool',
          'tree',
          'unreadable',
        ]);
      } finally {
        // Node cannot remove names that are not UTF-8.
        execFileSync('rm', ['-rf', directory]);
      }
    },
    SLOW,
  );

  test('rm removes it completely', async () => {
    expect(await torpor('rm', id)).toMatchObject({ exitCode: 0, stdout: `${id}\n` });
    expect((await torpor('ls', '-q')).stdout).toBe('');
    expect(await processesNaming(id)).toEqual([]);
    expect(await readdir(join(dataDir, 'sandboxes'))).toEqual([]);
    expect((await torpor('exec', id, '--', 'true')).exitCode).toBe(125);
  });
});

describe('two sandboxes of a platform that is killed', () => {
  let lost: string;
  let kept: string;
  let machines: number[];

  test(
    'keep running, and still have their files when it starts again',
    async () => {
      const create = async () => {
        const created = await torpor('create', '--memory', '256');
        // Its output says more than the failures of the commands that follow.
        expect(created).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/^sb/) });
        return created.stdout.trim();
      };
      lost = await create();
      kept = await create();
      for (const id of [lost, kept]) {
        const script = 'echo "$0" > note; nohup sleep 3600 > /dev/null 2>&1 &';
        expect((await torpor('exec', id, '--', 'sh', '-c', script, id)).exitCode).toBe(0);
      }
      machines = [...(await vmmsOf(lost)), ...(await vmmsOf(kept))];
      expect(machines).toHaveLength(2);
      await platform.kill();
      const startedAt = performance.now();
      platform = await TorporProcess.start(dataDir);
      const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
      process.stdout.write(`torpor up after kill -9, with two sandboxes: ready in ${seconds} s\n`);
      const listed = (await torpor('ls', '-q', '--state', 'running')).stdout.trim().split('\n');
      expect(listed.toSorted()).toEqual([lost, kept].toSorted());
      for (const id of [lost, kept]) {
        const read = await torpor('exec', id, '--', 'sh', '-c', 'cat note; pgrep -c sleep');
        expect(read).toMatchObject({ exitCode: 0, stdout: `${id}\n1\n` });
      }
      expect([...(await vmmsOf(lost)), ...(await vmmsOf(kept))]).toEqual(machines);
    },
    SLOW,
  );

  test('when the VMM of one is killed, the API reports the reason within five seconds, and the other is not affected', async () => {
    const api = await RestClient.open(platform.apiUrl, dataDir);
    const [machine] = await vmmsOf(lost);
    if (machine === undefined) throw new Error(`${lost} has no VMM.`);
    process.kill(machine, 'SIGKILL');
    await expect
      .poll(() => api.sandbox(lost), { timeout: 5_000, interval: 50 })
      .toMatchObject({
        status: 'error',
        // Kernels before 6.15 do not report how a process of an earlier server exited.
        reason: expect.stringMatching(/^QEMU (was terminated by SIGKILL|crashed, or was killed)/),
      });
    expect(await api.sandbox(kept)).toMatchObject({ status: 'running' });
    expect(await torpor('exec', kept, '--', 'cat', 'note')).toMatchObject({ stdout: `${kept}\n` });
    expect(await torpor('ls', '-q', '--state', 'error')).toMatchObject({ stdout: `${lost}\n` });
    expect(await torpor('exec', lost, '--', 'true')).toMatchObject({
      exitCode: 125,
      stderr: expect.stringMatching(/error/),
    });
  });

  test('rm removes both completely', async () => {
    expect((await torpor('rm', lost, kept)).exitCode).toBe(0);
    expect((await torpor('ls', '-q')).stdout).toBe('');
    const instance = instanceTag(await realpath(dataDir));
    expect(await readdir(join(dataDir, 'sandboxes'))).toEqual([]);
    expect(await readdir(join('/dev/shm', `torpor-${instance}`))).toEqual([]);
    for (const id of [lost, kept]) expect(await processesNaming(id)).toEqual([]);
  });
});

describe('run', () => {
  test('prints what the program prints, and removes the sandbox', async () => {
    const result = await torpor('run', '--', 'python3', '-c', 'print(6*7); exit(3)');
    expect(result).toMatchObject({ exitCode: 3, stdout: '42\n', stderr: '' });
    expect((await torpor('ls', '-q')).stdout).toBe('');
  });

  test('removes the sandbox when it is interrupted', async () => {
    // Not by a shell: dash loses a signal that arrives while it starts a program.
    const program = ['tail', '-n', '1', '-f', '/etc/debian_version'];
    const result = await runTorpor(dataDir, ['run', '--', ...program], {
      onSpawn: (child) => {
        child.stdout?.once('data', () => child.kill('SIGINT'));
      },
    });
    expect(result.exitCode).toBe(130);
    expect((await torpor('ls', '-q')).stdout).toBe('');
    expect(await readdir(join(dataDir, 'sandboxes'))).toEqual([]);
  });
});

test('other machines can join only a `torpor up` that accepts agents', async () => {
  expect(platform.agentUrl).toBeUndefined();
  const refused = await torpor('host', 'create', 'rack-3');
  expect(refused.exitCode).not.toBe(0);
  expect(refused.stderr).toContain('--accept-agents');
  await platform.stop();
  platform = await TorporProcess.start(dataDir, '--accept-agents', '--agent-port', '0');
  const { stdout, exitCode } = await torpor('host', 'create', 'rack-3');
  expect(exitCode).toBe(0);
  expect(stdout).toContain(`torpor agent --join ${platform.agentUrl} tpj_`);
  await platform.stop();
  platform = await TorporProcess.start(dataDir);
});

test('the timeout of `torpor up` for guests applies, and the error names the setting', async () => {
  expect(await platform.stop()).toBe(0);
  platform = await TorporProcess.start(dataDir, '--guest-timeout', '100ms');
  // With a shape that has not booted yet, so that it is not restored.
  const created = await torpor('create', '--memory', '300m');
  expect(created).toMatchObject({ exitCode: 1, stdout: '' });
  expect(created.stderr).toMatch(/did not respond within 0\.1 s of its start/);
  expect(created.stderr).toMatch(/--guest-timeout/);
  expect(await readdir(join(dataDir, 'sandboxes'))).toEqual([]);
  expect(await platform.stop()).toBe(0);
  platform = await TorporProcess.start(dataDir);
});

test(
  'the commands of the README, as they are written',
  async () => {
    const blocks = (await readmeBlocks()).filter(({ language }) => language === 'sh');
    // `npm start` and `npm test` run this test. Only Ctrl-C stops `forward`.
    const script = blocks
      .map(({ code }) => code)
      .filter((code) => !/^npm (start|test)/m.test(code))
      .join('\n')
      .replaceAll(/^npx torpor forward .*$/gm, '');
    const { exitCode, stdout, stderr } = await runShell(dataDir, `set -e\n${script}`);
    expect(exitCode, stderr).toBe(0);
    expect(stdout).toContain('42\n');
    expect(stdout).toMatch(/^0 hello from /m);
    expect(stdout).toContain('{ exitCode: 0 }');
    expect(stdout).toContain('2 copies, 0 errors');
    expect(stdout).toContain('HTTP/1.0 200 OK');
    await torpor('rm', '--all', '--yes');
    await torpor('templates', 'rm', 'server');
  },
  SLOW,
);

test('`torpor up` exits with status 0 at SIGTERM, and leaves nothing', async () => {
  expect(await platform.stop()).toBe(0);
  expect(await leftovers(instanceTag(await realpath(dataDir)), dataDir)).toEqual([]);
});
