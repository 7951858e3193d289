import type { MessageInitShape } from '@bufbuild/protobuf';
import { type Client, Code, ConnectError, createClient } from '@connectrpc/connect';
import { createConnectTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import { envdProcess, TorporError, USER_HEADER } from '@torpor/protocol';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Envd, startEnvd } from '../index.ts';

type ProcessClient = Client<typeof envdProcess.Process>;
type StartInit = MessageInitShape<typeof envdProcess.StartRequestSchema>;

interface StartMore {
  readonly stdin?: boolean;
  readonly tag?: string;
  readonly pty?: MessageInitShape<typeof envdProcess.PTYSchema>;
}

interface Outcome {
  stdout: string;
  stderr: string;
  pty: string;
  keepalives: number;
  pid: number;
  end: envdProcess.ProcessEvent_EndEvent | undefined;
}

/** Follows a stream to its end, or until `stop` holds. */
async function collect(
  stream: AsyncIterable<{ event?: envdProcess.ProcessEvent | undefined }>,
  stop: (soFar: Outcome) => boolean = () => false,
): Promise<Outcome> {
  const outcome: Outcome = {
    stdout: '',
    stderr: '',
    pty: '',
    keepalives: 0,
    pid: 0,
    end: undefined,
  };
  for await (const { event } of stream) {
    switch (event?.event.case) {
      case 'start':
        outcome.pid = event.event.value.pid;
        break;
      case 'data': {
        const { output } = event.event.value;
        if (output.case !== undefined) {
          outcome[output.case] += Buffer.from(output.value).toString('latin1');
        }
        break;
      }
      case 'keepalive':
        outcome.keepalives += 1;
        break;
      case 'end':
        outcome.end = event.event.value;
        break;
    }
    if (stop(outcome)) break;
  }
  return outcome;
}

const shell = (script: string, more: StartMore = {}): StartInit => ({
  process: { cmd: '/bin/sh', args: ['-c', script] },
  stdin: false,
  ...more,
});

const byPid = (pid: number) => ({ process: { selector: { case: 'pid', value: pid } } }) as const;
const byTag = (tag: string) => ({ process: { selector: { case: 'tag', value: tag } } }) as const;
const stdin = (text: string) => ({ input: { case: 'stdin', value: Buffer.from(text) } }) as const;

async function failureOf(promise: Promise<unknown>): Promise<ConnectError> {
  return ConnectError.from(
    await promise.then(
      () => new Error('it did not fail'),
      (error: unknown) => error,
    ),
  );
}

const isRoot = process.getuid?.() === 0;

let envd: Envd;
let client: ProcessClient;

beforeAll(async () => {
  envd = await startEnvd({ port: 0 });
});

afterAll(async () => {
  await envd.close();
});

const clientWith = (useBinaryFormat: boolean): ProcessClient =>
  createClient(
    envdProcess.Process,
    createConnectTransport({
      baseUrl: `http://127.0.0.1:${envd.port}`,
      httpVersion: '1.1',
      useBinaryFormat,
    }),
  );

beforeEach(() => {
  client = clientWith(true);
});

afterEach(async () => {
  const { processes } = await client.list({});
  await Promise.all(
    processes.map(({ pid }) =>
      client
        .sendSignal({ ...byPid(pid), signal: envdProcess.Signal.SIGKILL })
        .catch(() => undefined),
    ),
  );
});

describe.each([
  ['binary', true],
  ['JSON', false],
])('the Process service over Connect with the %s codec', (_name, useBinaryFormat) => {
  beforeEach(() => {
    client = clientWith(useBinaryFormat);
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

  it('leaves bytes as they are', async () => {
    const outcome = await collect(
      client.start(
        shell('i=0; while [ $i -lt 256 ]; do printf "\\\\$(printf %o $i)"; i=$((i+1)); done'),
      ),
    );
    expect(Buffer.from(outcome.stdout, 'latin1')).toEqual(
      Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)),
    );
  });

  it('takes a stream of input', async () => {
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

it('also speaks gRPC-web', async () => {
  const grpc = createClient(
    envdProcess.Process,
    createGrpcWebTransport({ baseUrl: `http://127.0.0.1:${envd.port}`, httpVersion: '1.1' }),
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

  it('keeps the standard input open unless told otherwise', async () => {
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

  it('says that a program does not exist', async () => {
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
      expect(error).toMatchObject({
        code: Code.NotFound,
        rawMessage: 'process with pid 4000000000 not found',
      });
    },
  );

  it.each([1, 2, 3, 10, 14, 34, 64])(
    'sends signal %i, which E2B has no name for',
    async (signal) => {
      // With a background job, as traps act only while the shell itself does not wait in the kernel.
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

describe('following', () => {
  it('gives every follower everything, also when one leaves', async () => {
    const script =
      'read go; i=0; while [ $i -lt 3000 ]; do echo "line $i of the output"; i=$((i+1)); done';
    const first = client
      .start(shell(script, { stdin: true, tag: 'shared' }))
      [Symbol.asyncIterator]();
    await first.next();
    const leaver = client.connect(byTag('shared'))[Symbol.asyncIterator]();
    await leaver.next();
    const second = collect(client.connect(byTag('shared')));
    const all = collect({ [Symbol.asyncIterator]: () => first });
    await client.sendInput({ ...byTag('shared'), input: stdin('go\n') });
    await leaver.next();
    await leaver.return?.();
    const expected = Array.from({ length: 3000 }, (_, i) => `line ${i} of the output\n`).join('');
    expect((await all).stdout).toBe(expected);
    expect((await second).stdout).toBe(expected);
  });

  it('repeats no more than the last 64 KiB to a late follower', async () => {
    const started = client.start(
      shell('head -c 300000 /dev/zero | tr "\\0" x; printf last; echo ready >&2; sleep 600', {
        tag: 'late',
      }),
    );
    await collect(started, ({ stderr }) => stderr.includes('ready'));
    const { stdout } = await collect(client.connect(byTag('late')), ({ stderr }) =>
      stderr.includes('ready'),
    );
    expect(stdout.length).toBeLessThanOrEqual(64 * 1024);
    expect(stdout.length).toBeGreaterThan(60 * 1024);
    expect(stdout.endsWith('xlast')).toBe(true);
  });

  it('lets a process that nobody follows write on', async () => {
    const started = client.start(
      shell('read go; head -c 5000000 /dev/zero; echo done', { stdin: true, tag: 'alone' }),
    );
    const { pid } = await collect(started, () => true);
    await client.sendInput({ ...byTag('alone'), input: stdin('go\n') });
    const outcome = await collect(client.connect(byPid(pid)));
    expect(outcome.end?.exitCode).toBe(0);
    expect(outcome.stdout.endsWith('done\n')).toBe(true);
  });

  it('sends keepalives at the interval that the client asks for', async () => {
    const stream = client.start(shell('sleep 600'), {
      headers: { 'Keepalive-Ping-Interval': '1' },
    });
    const outcome = await collect(stream, ({ keepalives }) => keepalives === 2);
    expect(outcome.keepalives).toBe(2);
  });

  it('kills the process when the deadline of its start passes, not when the client leaves', async () => {
    const deadline = failureOf(
      collect(client.start(shell('sleep 600', { tag: 'late' }), { timeoutMs: 700 })),
    );
    expect((await deadline).code).toBe(Code.DeadlineExceeded);
    await expect.poll(async () => (await client.list({})).processes).toEqual([]);

    const left = new AbortController();
    const stream = client
      .start(shell('sleep 600', { tag: 'left' }), {
        timeoutMs: 60_000,
        signal: left.signal,
      })
      [Symbol.asyncIterator]();
    await stream.next();
    left.abort();
    await failureOf(stream.next());
    const again = collect(client.connect(byTag('left')), () => true);
    expect((await again).pid).toBeGreaterThan(0);
  });

  it('does not kill the process when the deadline of a Connect passes', async () => {
    await collect(client.start(shell('sleep 600', { tag: 'kept' })), () => true);
    const error = await failureOf(collect(client.connect(byTag('kept'), { timeoutMs: 300 })));
    expect(error.code).toBe(Code.DeadlineExceeded);
    expect((await client.list({})).processes).toHaveLength(1);
  });
});

describe('input', () => {
  it('waits until the program takes it, and reports a closed one', async () => {
    const size = 1_000_000;
    const started = client
      .start(shell(`head -c 1 > /dev/null; echo started; wc -c`, { stdin: true, tag: 'reader' }))
      [Symbol.asyncIterator]();
    await started.next();
    await client.sendInput({ ...byTag('reader'), input: stdin('x'.repeat(size)) });
    await client.closeStdin(byTag('reader'));
    const error = await failureOf(client.sendInput({ ...byTag('reader'), input: stdin('more') }));
    expect([Code.FailedPrecondition, Code.NotFound]).toContain(error.code);
    const { stdout } = await collect({ [Symbol.asyncIterator]: () => started });
    expect(stdout).toContain('started');
  });

  it('gives up with the client when the program does not read', async () => {
    const started = client
      .start(shell('sleep 600', { stdin: true, tag: 'deaf' }))
      [Symbol.asyncIterator]();
    await started.next();
    const big = { ...byTag('deaf'), input: stdin('x'.repeat(4_000_000)) };
    const error = await failureOf(client.sendInput(big, { timeoutMs: 500 }));
    expect(error.code).toBe(Code.DeadlineExceeded);
  });

  it('is refused where the kind does not fit', async () => {
    await collect(client.start(shell('sleep 600', { stdin: true, tag: 'pipes' })), () => true);
    const toPipes = client.sendInput({
      ...byTag('pipes'),
      input: { input: { case: 'pty', value: Buffer.from('x') } },
    });
    expect((await failureOf(toPipes)).code).toBe(Code.FailedPrecondition);
    await collect(client.start(shell('sleep 600', { pty: {}, tag: 'terminal' })), () => true);
    const toTerminal = client.sendInput({ ...byTag('terminal'), input: stdin('x') });
    expect((await failureOf(toTerminal)).code).toBe(Code.FailedPrecondition);
    expect((await failureOf(client.closeStdin(byTag('terminal')))).code).toBe(
      Code.FailedPrecondition,
    );
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

describe('memory and order', () => {
  it('keeps the order of input that is sent by several calls', async () => {
    const started = client
      .start(shell('cat', { stdin: true, tag: 'order' }))
      [Symbol.asyncIterator]();
    await started.next();
    const parts = Array.from({ length: 50 }, (_, index) => `${index} `);
    for (const part of parts) await client.sendInput({ ...byTag('order'), input: stdin(part) });
    await client.closeStdin(byTag('order'));
    const { stdout } = await collect({ [Symbol.asyncIterator]: () => started });
    expect(stdout).toBe(parts.join(''));
  });
});
