import { createClient, createRouterTransport } from '@connectrpc/connect';
import { HostAgent } from '@torpor/agent';
import { hostAgent, newId } from '@torpor/protocol';
import { GUEST_OPTIONS, openDataDirWithBoots } from '@torpor/testkit/guests';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type AgentClient, CACHE_DIR, run, text } from './agent-under-test.ts';

/*
 * Programs that exhaust a resource, run one after the other in one guest. After each, root
 * must be able to run a program.
 */

const resources = new AsyncDisposableStack();
let dataDir: string;
let agent: HostAgent;
let client: AgentClient;
const sandboxId = newId('sandbox');

const PROGRAMS = '/sys/fs/cgroup/programs';
const SHAPE = { vcpus: 1, memoryMb: 256, diskSizeMb: 1024, templateId: 'base' };
/** Long enough for an emulated guest on a busy machine with hundreds of busy programs. */
const TIMEOUT_SEC = 120;

beforeAll(async () => {
  const shape = { vcpus: 1, memoryMiB: 256, diskMiB: 1024 };
  dataDir = resources.use(await openDataDirWithBoots(CACHE_DIR, shape)).path;
  agent = await HostAgent.open({
    ...GUEST_OPTIONS,
    dataDir,
    cacheDir: CACHE_DIR,
    forcedAccelerator: 'tcg',
    logger: pino({ level: 'warn' }, pino.destination(2)),
    network: { poolSize: 1 },
  });
  client = createClient(
    hostAgent.HostAgentService,
    createRouterTransport((router) => agent.routes(router)),
  );
  await client.createSandbox({ sandboxId, ...SHAPE });
});

afterAll(async () => {
  await agent?.close({ destroyAll: true });
  await resources.disposeAsync();
});

async function execute(user: string, cmd: string, ...args: string[]) {
  const request = { sandboxId, user, cmd, args, timeoutSec: TIMEOUT_SEC };
  const { exitCode, status, stdout, stderr } = await client.exec(request);
  return { exitCode, status, stdout: text(stdout), stderr: text(stderr) };
}

const asRoot = (script: string, id = sandboxId) =>
  run(client, id, script, { user: 'root', timeoutSec: TIMEOUT_SEC });

/** Kills all programs of the other accounts, as the error's remedy says. */
async function killUserPrograms(id = sandboxId): Promise<void> {
  const members = `${PROGRAMS}/unprivileged/cgroup.procs`;
  await asRoot(
    `echo 1 > ${PROGRAMS}/unprivileged/cgroup.kill; while [ -n "$(cat ${members})" ]; do sleep 0.1; done`,
    id,
  );
}

const HOG = `
blocks = []
while True: blocks.append(bytearray(1 << 20))`;

/** Starts a program as the user, and waits until it has reached the limit of processes. */
async function startBomb(cmd: string, script: string): Promise<void> {
  const events = `${PROGRAMS}/unprivileged/pids.events.local`;
  const before = await asRoot(`cat ${events}`);
  await client.startBackground({ sandboxId, user: 'user', cmd, args: ['-c', script] });
  await asRoot(`until [ "$(cat ${events})" != "${before.trim()}" ]; do sleep 0.2; done`);
}

/** Its processes exit when they cannot fork, so that there is room again for a moment. */
const SHELL_BOMB = 'bomb() { bomb | bomb & }; bomb; sleep 3600';
/** The shell exits, and only its place is free then: the next program cannot fork. */
const LASTING_BOMB = 'while :; do sleep 3600 & done';

test('a fork bomb leaves room for others, also after a pause, and in a fork', async () => {
  await startBomb('/bin/bash', SHELL_BOMB);
  // envd's group contains only tini and envd, however fast the bomb forked.
  // The program that checks must itself have been moved.
  const daemons = () => asRoot(`sleep 0.5; cat ${PROGRAMS}/../torpor/cgroup.procs`);
  await expect.poll(daemons, { timeout: 60_000 }).toMatch(/^1\n\d+\n$/);
  const limit = (await asRoot(`cat ${PROGRAMS}/pids.max`)).trim();
  // Even the account with the bomb can start a program.
  const { exitCode, status } = await execute('user', '/bin/true');
  expect([exitCode, status]).toEqual([0, undefined]);
  await killUserPrograms();

  await startBomb('/bin/sh', LASTING_BOMB);
  const group = `${PROGRAMS}/unprivileged`;
  await asRoot(
    `until [ $(($(cat ${group}/pids.current) + 1)) -ge $(cat ${group}/pids.max) ]; do sleep 0.2; done`,
  );
  // A program that forks gets the reason of the failure once it has been moved to its group.
  const forks =
    'import os\nwhile "/programs/" not in open("/proc/self/cgroup").read(): pass\nos.fork()';
  expect(await execute('user', 'python3', '-c', forks)).toMatchObject({
    exitCode: 1,
    status: 'exit status 1: out of processes',
  });

  await client.pauseSandbox({ sandboxId });
  await client.resumeSandbox({ sandboxId });
  const childId = newId('sandbox');
  const { children } = await client.forkSandbox({ sandboxId, childIds: [childId] });
  expect(children.map(({ outcome }) => outcome.case)).toEqual(['sandbox']);
  for (const id of [sandboxId, childId]) {
    expect(await asRoot(`cat ${PROGRAMS}/pids.max`, id)).toBe(`${limit}\n`);
    await killUserPrograms(id);
  }
  await client.destroySandbox({ sandboxId: childId });
  expect(await execute('user', '/bin/bash', '-c', 'echo a | cat')).toMatchObject({ stdout: 'a\n' });
});

test.each(['user', 'root'])(
  'the status of a memory hog of %s says that it was killed, and why',
  async (user) => {
    expect(await execute(user, 'python3', '-c', HOG)).toMatchObject({
      exitCode: -1,
      status: 'signal: killed: out of memory',
    });
    const shell = ['-c', `python3 -c '${HOG}'; exit $?`];
    expect(await execute(user, '/bin/bash', ...shell)).toMatchObject({
      exitCode: 137,
      status: 'exit status 137: out of memory',
    });
    // Another kill does not get this reason.
    expect(await execute(user, '/bin/sh', '-c', 'kill -9 $$')).toMatchObject({
      exitCode: -1,
      status: 'signal: killed',
    });
  },
);

test('full file systems in memory leave room for the programs that empty them', async () => {
  await execute('user', '/bin/sh', '-c', 'dd if=/dev/zero of=/dev/shm/theirs bs=1M');
  await execute(
    'root',
    '/bin/sh',
    '-c',
    'for at in /dev/shm /run /dev; do dd if=/dev/zero of=$at/full bs=1M; done',
  );
  await asRoot('rm -f /dev/shm/* /run/full /dev/full; true');
});

test.each([
  [
    'open files',
    'import os\nopen_ = [os.open("/dev/null", 0)]\nwhile True: open_.append(os.dup(open_[0]))',
  ],
  ['terminals', 'import os\nopen_ = []\nwhile True: open_.append(os.openpty())'],
  [
    'watches',
    'import ctypes\nlibc = ctypes.CDLL(None)\nwhile libc.inotify_init() >= 0: pass\nraise OSError',
  ],
  ['zombies', 'import os\nwhile os.fork(): pass\nos._exit(0)'],
])('a program that exhausts %s exits, and leaves room for others', async (_what, script) => {
  const { exitCode } = await execute('user', 'python3', '-c', script);
  expect(exitCode).not.toBe(0);
  expect(await execute('user', '/bin/sh', '-c', 'ls /proc | cat')).toMatchObject({ exitCode: 0 });
  expect(await asRoot('echo still here')).toBe('still here\n');
});

test('programs that do not exit are killed, and do not prevent the destroy', async () => {
  const script =
    'trap "" TERM HUP INT; (setsid sh -c "trap \'\' TERM; sleep 3600" &); while :; do :; done';
  const { pid } = await client.startBackground({ sandboxId, cmd: '/bin/sh', args: ['-c', script] });
  const selector = { case: 'pid', value: pid } as const;
  await client.killProcess({ sandboxId, selector, signal: 'SIGTERM' });
  expect((await client.listProcesses({ sandboxId })).processes.map((it) => it.pid)).toContain(pid);
  await client.killProcess({ sandboxId, selector, signal: 'SIGKILL' });
  await expect
    .poll(async () => (await client.listProcesses({ sandboxId })).processes, { timeout: 60_000 })
    .toEqual([]);
  await client.pauseSandbox({ sandboxId });
  await client.destroySandbox({ sandboxId });
});
