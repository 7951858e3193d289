import { readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EnvdContext } from '../context.ts';
import { UserDatabase } from '../users.ts';
import type { GuestProcess } from './guest-process.ts';
import { Launcher } from './launcher.ts';
import { ProcessTable } from './process-table.ts';

const isRoot = process.getuid?.() === 0;

interface Outcome {
  readonly output: string;
  readonly exitCode: number;
}

async function endOf(process: GuestProcess): Promise<Outcome> {
  using subscription = process.output.subscribe();
  let output = '';
  for (;;) {
    const event = await subscription.next(30_000);
    if (typeof event === 'string') throw new Error(`${event} instead of an end`);
    if (event.type === 'end') return { output, exitCode: event.end.exitCode };
    output += Buffer.from(event.chunk.bytes).toString();
  }
}

/** An account that exists only in files of this test. */
describe.runIf(isRoot)('a process of another account', () => {
  let directory: string;
  let table: ProcessTable;
  let context: EnvdContext;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'torpor-account-'));
    await chmod(directory, 0o755);
    await mkdir(join(directory, 'private'), { mode: 0o700 });
    const passwd = join(directory, 'passwd');
    const group = join(directory, 'group');
    await writeFile(passwd, `tester:x:54321:54322::${directory}:/bin/sh\n`);
    await writeFile(group, 'tester:x:54322:\nsudo:x:27:tester\nextra:x:54323:tester\n');
    context = new EnvdContext({
      users: new UserDatabase(passwd, group),
      defaultUser: 'tester',
    });
    table = new ProcessTable({ context, launcher: new Launcher(), searchPath: '/usr/bin:/bin' });
  });

  afterAll(async () => {
    table.killAll();
    await rm(directory, { recursive: true });
  });

  const start = (script: string, more: { terminal?: boolean; cwd?: string } = {}) =>
    table.start({
      user: context.resolveUser(),
      description: {
        cmd: 'sh',
        args: ['-c', script],
        envs: {},
        cwd: more.cwd,
        tag: undefined,
      },
      terminal: more.terminal ? { cols: 80, rows: 24 } : undefined,
      stdin: false,
    });

  const IDENTITY =
    'id -u; id -g; id -G | tr " " "\\n" | sort -n | tr "\\n" " "; grep CapEff /proc/self/status';

  it.each([
    ['on pipes', false],
    ['on a terminal', true],
  ])('%s has its ids, all its groups and no privileges', async (_where, terminal) => {
    const { output } = await endOf(await start(IDENTITY, { terminal }));
    expect(output.split(/\s+/).slice(0, 7)).toEqual([
      '54321',
      '54322',
      '27',
      '54322',
      '54323',
      'CapEff:',
      '0000000000000000',
    ]);
    expect(readFileSync('/proc/self/status', 'utf8')).toMatch(/^Uid:\t0\t0\t0\t0$/m);
  });

  it('may open its own outputs and terminal again', async () => {
    const onPipes = await endOf(await start('echo out > /dev/stdout && echo err > /dev/stderr'));
    expect(onPipes).toEqual({ output: 'out\nerr\n', exitCode: 0 });
    const onTerminal = await endOf(await start('echo here > "$(tty)"', { terminal: true }));
    expect(onTerminal).toEqual({ output: 'here\r\n', exitCode: 0 });
  });

  it('enters its directory with its own rights', async () => {
    expect((await endOf(await start('pwd'))).output).toBe(`${directory}\n`);
    await expect(start('pwd', { cwd: join(directory, 'private') })).rejects.toMatchObject({
      code: 'invalid_request',
      message: expect.stringContaining('is not accessible'),
    });
  });
});

describe('the table of processes', () => {
  it('leaves neither descriptors nor zombies behind', async () => {
    const table = new ProcessTable({
      context: new EnvdContext({ defaultUser: process.env.USER ?? 'root' }),
      launcher: new Launcher(),
      searchPath: '/usr/bin:/bin',
    });
    const user = new EnvdContext({ defaultUser: process.env.USER ?? 'root' }).resolveUser();
    const run = async (terminal: boolean): Promise<number> => {
      const started = await table.start({
        user,
        description: { cmd: 'sh', args: ['-c', 'echo x'], envs: {}, cwd: '/', tag: undefined },
        terminal: terminal ? { cols: 80, rows: 24 } : undefined,
        stdin: !terminal,
      });
      await endOf(started);
      return started.pid;
    };
    await run(false);
    await run(true);
    const openDescriptors = (): number => readdirSync('/proc/self/fd').length;
    const before = openDescriptors();
    const pids: number[] = [];
    for (let round = 0; round < 20; round += 1) pids.push(await run(round % 2 === 0));
    await expect(
      table.start({
        user,
        description: { cmd: '/no/such', args: [], envs: {}, cwd: '/', tag: undefined },
        terminal: undefined,
        stdin: true,
      }),
    ).rejects.toMatchObject({ code: 'program_not_found' });
    await expect.poll(openDescriptors).toBeLessThanOrEqual(before);
    expect(table.running()).toEqual([]);
    const left = pids.filter((pid) => readdirSync('/proc').includes(String(pid)));
    expect(left).toEqual([]);
  });

  it('drops the oldest of very many that have exited', async () => {
    const context = new EnvdContext({ defaultUser: process.env.USER ?? 'root' });
    const table = new ProcessTable({
      context,
      launcher: new Launcher(),
      searchPath: '/usr/bin:/bin',
    });
    const first = await runTrue(table, context);
    for (let round = 0; round < 8; round += 1) {
      await Promise.all(Array.from({ length: 32 }, () => runTrue(table, context)));
    }
    expect(() => table.findOrExited({ pid: first })).toThrow('not found');
  });
});

async function runTrue(table: ProcessTable, context: EnvdContext): Promise<number> {
  const started = await table.start({
    user: context.resolveUser(),
    description: { cmd: 'true', args: [], envs: {}, cwd: '/', tag: undefined },
    terminal: undefined,
    stdin: false,
  });
  await endOf(started);
  return started.pid;
}
