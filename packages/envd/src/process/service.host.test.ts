import type { MessageInitShape } from '@bufbuild/protobuf';
import { Code, createClient } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-node';
import { envdProcess, REMEDIES, TorporError, USER_HEADER } from '@torpor/protocol';
import {
  byPid,
  byTag,
  collect,
  failureOf,
  type ProcessClient,
  ProcessDaemon,
  shell,
  stdin,
} from '@torpor/testkit/envd';
import { beforeEach, describe, expect, it } from 'vitest';

const isRoot = process.getuid?.() === 0;

const daemon = ProcessDaemon.forAllTests();
let client: ProcessClient;

beforeEach(() => {
  client = daemon.client();
});

describe.each([
  ['binary', true],
  ['JSON', false],
])('the Process service over Connect with the %s codec', (_name, useBinaryFormat) => {
  beforeEach(() => {
    client = daemon.client(useBinaryFormat);
  });

  it('sends start, data and end', async () => {
    const outcome = await collect(client.start(shell('printf out; printf err >&2; exit 4')));
    expect(outcome).toMatchObject({ stdout: 'out', stderr: 'err' });
    expect(outcome.pid).toBeGreaterThan(0);
    expect(outcome.end).toMatchObject({
      exitCode: 4,
      exited: true,
      status: 'exit status 4',
      error: 'exit status 4',
    });
  });

  it('does not change bytes', async () => {
    const outcome = await collect(
      client.start(
        shell('i=0; while [ $i -lt 256 ]; do printf "\\\\$(printf %o $i)"; i=$((i+1)); done'),
      ),
    );
    expect(Buffer.from(outcome.stdout, 'latin1')).toEqual(
      Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)),
    );
  });

  it('accepts a stream of input', async () => {
    const running = client
      .start(shell('cat', { stdin: true, tag: 'streamed' }))
      [Symbol.asyncIterator]();
    await running.next();
    async function* input(): AsyncGenerator<
      MessageInitShape<typeof envdProcess.StreamInputRequestSchema>
    > {
      yield { event: { case: 'start', value: byTag('streamed') } } as const;
      yield { event: { case: 'keepalive', value: {} } } as const;
      for (const part of ['a', 'b', 'c']) {
        yield { event: { case: 'data', value: { input: stdin(part) } } } as const;
      }
    }
    await client.streamInput(input());
    await client.closeStdin(byTag('streamed'));
    const outcome = await collect({ [Symbol.asyncIterator]: () => running });
    expect(outcome.stdout).toBe('abc');
  });
});

it('also supports gRPC-web', async () => {
  const grpc = createClient(
    envdProcess.Process,
    createGrpcWebTransport({ baseUrl: daemon.baseUrl, httpVersion: '1.1' }),
  );
  expect((await collect(grpc.start(shell('echo hello')))).stdout).toBe('hello\n');
});

describe('starting', () => {
  it('composes the environment from the account, the settings and the request', async () => {
    const { stdout } = await collect(
      client.start({
        process: { cmd: 'env', envs: { USER: 'somebody', EXTRA: '1' } },
      }),
    );
    const lines = stdout.trim().split('\n').sort();
    expect(lines).toEqual([
      'EXTRA=1',
      'HOME=/root',
      'LANG=C.UTF-8',
      'LOGNAME=root',
      'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      expect.stringMatching(/^SHELL=\/bin\//),
      'USER=somebody',
    ]);
  });

  it('keeps the standard input open by default', async () => {
    const running = client.start({ process: { cmd: 'cat' } })[Symbol.asyncIterator]();
    const first = await running.next();
    const pid = first.value?.event?.event.value?.pid;
    await client.sendInput({ ...byPid(pid), input: stdin('typed') });
    await client.closeStdin(byPid(pid));
    expect((await collect({ [Symbol.asyncIterator]: () => running })).stdout).toBe('typed');
  });

  it('gives real pipes, which a program can open again', async () => {
    const outcome = await collect(
      client.start(shell('echo out > /dev/stdout; echo err > /dev/stderr')),
    );
    expect(outcome).toMatchObject({ stdout: 'out\n', stderr: 'err\n' });
  });

  it('leaves no descriptor of the daemon open in the program', async () => {
    const before = (await collect(client.start(shell('ls /proc/self/fd')))).stdout;
    const idle = client.start(shell('sleep 600', { stdin: true }))[Symbol.asyncIterator]();
    await idle.next();
    expect((await collect(client.start(shell('ls /proc/self/fd')))).stdout).toBe(before);
  });

  it('reports that a program does not exist', async () => {
    const error = await failureOf(collect(client.start({ process: { cmd: '/no/such/program' } })));
    expect(TorporError.from(error)).toMatchObject({
      code: 'program_not_found',
      message: "The program '/no/such/program' does not exist in the sandbox.",
    });
    const inPty = collect(client.start({ process: { cmd: '/no/such/program' }, pty: {} }));
    expect(TorporError.from(await failureOf(inPty)).code).toBe('program_not_found');
  });

  it.each([
    ['no process', {}, Code.InvalidArgument],
    ['an empty command', { process: { cmd: '' } }, Code.InvalidArgument],
    ['a NUL byte', { process: { cmd: 'echo', args: ['a\0b'] } }, Code.InvalidArgument],
    [
      'a variable name with =',
      { process: { cmd: 'true', envs: { 'A=B': 'c' } } },
      Code.InvalidArgument,
    ],
    [
      'a directory that is a file',
      { process: { cmd: 'true', cwd: '/etc/passwd' } },
      Code.InvalidArgument,
    ],
    [
      'a terminal too large',
      { process: { cmd: 'true' }, pty: { size: { cols: 70_000, rows: 1 } } },
      Code.InvalidArgument,
    ],
  ])('refuses %s', async (_what, request, code) => {
    const error = await failureOf(collect(client.start(request)));
    expect(error.code).toBe(code);
    expect((await client.list({})).processes).toEqual([]);
  });

  const USER_ENVIRONMENT =
    'echo "$(id -u):$(id -g):$(id -G) $HOME $USER $PWD $(echo $PATH | cut -d: -f1)"';

  it.runIf(isRoot).each([
    ['4242', '4242:0:0 / 4242 / /.local/bin\n'],
    ['4242:4343', '4242:4343:4343 / 4242 / /.local/bin\n'],
    ['root:4343', '0:4343:4343 /root root /root /usr/local/sbin\n'],
  ])('runs a program as %j', async (user, expected) => {
    const headers = { [USER_HEADER]: user };
    const { stdout } = await collect(client.start(shell(USER_ENVIRONMENT), { headers }));
    expect(stdout).toBe(expected);
  });

  it('refuses an account that does not exist', async () => {
    const headers = { Authorization: `Basic ${btoa('ghost:')}` };
    const error = await failureOf(collect(client.start(shell('true'), { headers })));
    expect(error).toMatchObject({
      code: Code.Unauthenticated,
      rawMessage: "invalid username: 'ghost'",
    });
  });
});

describe('selecting', () => {
  it('finds the right one of several processes by tag', async () => {
    const streams = ['one', 'two', 'three'].map((tag) =>
      client.start(shell(`echo ${tag}; sleep 600`, { tag }))[Symbol.asyncIterator](),
    );
    for (const stream of streams) await stream.next();
    const { processes } = await client.list({});
    expect(processes.map(({ tag }) => tag)).toEqual(['one', 'two', 'three']);
    const followed = await collect(client.connect(byTag('two')), ({ stdout }) => stdout !== '');
    expect(followed.stdout).toBe('two\n');
    await client.sendSignal({ ...byTag('three'), signal: envdProcess.Signal.SIGTERM });
    const outcome = await collect({ [Symbol.asyncIterator]: () => streams[2] as never });
    expect(outcome.end).toMatchObject({
      exitCode: -1,
      exited: false,
      status: 'signal: terminated',
    });
  });

  it.each([
    ['connect', (target: ReturnType<typeof byPid>) => collect(client.connect(target))],
    ['sendInput', (target) => client.sendInput({ ...target, input: stdin('x') })],
    [
      'sendSignal',
      (target) => client.sendSignal({ ...target, signal: envdProcess.Signal.SIGKILL }),
    ],
    ['closeStdin', (target) => client.closeStdin(target)],
    ['update', (target) => client.update({ ...target, pty: { size: { cols: 1, rows: 1 } } })],
  ] as [string, (target: ReturnType<typeof byPid>) => Promise<unknown>][])(
    '%s does not find an unknown process',
    async (_name, call) => {
      const error = await failureOf(call(byPid(4_000_000_000)));
      expect(TorporError.from(error).remedy).toBe(REMEDIES.listProcesses);
      expect(error).toMatchObject({
        code: Code.NotFound,
        rawMessage: 'process with pid 4000000000 not found',
      });
    },
  );

  it.each([1, 2, 3, 10, 14, 34, 64])(
    'sends signal %i, which E2B has no name for',
    async (signal) => {
      // With a background job, as traps act only while the shell itself does not wait in the
      // kernel.
      const script = `trap 'echo got ${signal}; exit 7' ${signal}; sleep 600 & echo ready; wait`;
      const events = client.start(shell(script, { tag: `signalled-${signal}` }));
      let output = '';
      for await (const { event } of events) {
        if (event?.event.case === 'data')
          output += Buffer.from(event.event.value.output.value ?? []);
        if (output === 'ready\n') {
          await client.sendSignal({ ...byTag(`signalled-${signal}`), signal: signal as never });
        }
        if (event?.event.case === 'end') expect(event.event.value.exitCode).toBe(7);
      }
      expect(output).toBe(`ready\ngot ${signal}\n`);
    },
  );

  it.each([0, 65, 1000])('refuses %i as a signal', async (signal) => {
    const running = client
      .start(shell('sleep 600', { tag: `kept-${signal}` }))
      [Symbol.asyncIterator]();
    await running.next();
    const error = await failureOf(
      client.sendSignal({ ...byTag(`kept-${signal}`), signal: signal as never }),
    );
    expect(error.code).toBe(Code.InvalidArgument);
    await client.sendSignal({ ...byTag(`kept-${signal}`), signal: envdProcess.Signal.SIGKILL });
  });
});

describe('terminals', () => {
  it('are the controlling terminal of a session of their own', async () => {
    const { pty, end } = await collect(
      client.start(
        shell('ps -o pid=,sid=,tty= -p $$; echo size $(stty size); : > /dev/tty', {
          pty: { size: { cols: 101, rows: 33 } },
        }),
      ),
    );
    expect(end?.exitCode).toBe(0);
    expect(pty).toMatch(/^\s*(\d+)\s+\1\s+pts\/\d+/);
    expect(pty).toContain('size 33 101');
  });

  it('have the environment of the request', async () => {
    const { pty } = await collect(
      client.start({ process: { cmd: 'env', envs: { TERM: 'vt100', MARK: 'here' } }, pty: {} }),
    );
    expect(pty).toContain('TERM=vt100');
    expect(pty).toContain('MARK=here');
  });
});
