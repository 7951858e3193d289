import { rest } from '@torpor/protocol';
import { type Harness, startHarness, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';

let harness: Harness;
let id: string;

beforeAll(async () => {
  harness = await startHarness();
  id = (await harness.create({ memory_mb: 128 })).id;
});

afterAll(async () => {
  await harness[Symbol.asyncDispose]();
});

type Frame = Record<string, unknown> & { type: string };

/** A client that keeps every frame it received. */
class Client implements AsyncDisposable {
  readonly frames: Frame[] = [];
  closeCode: number | undefined;
  /** The status of an HTTP response instead of an upgrade. */
  refusedWith: number | undefined;
  readonly socket: WebSocket;

  constructor(path: string, headers: Record<string, string>) {
    this.socket = new WebSocket(`${harness.controlPlane.url.replace('http', 'ws')}${path}`, {
      headers,
    });
    this.socket.on('message', (data) => this.frames.push(JSON.parse(String(data)) as Frame));
    this.socket.on('close', (code) => {
      this.closeCode = code;
    });
    this.socket.on('unexpected-response', (_, response) => {
      this.refusedWith = response.statusCode;
      response.resume();
    });
    this.socket.on('error', () => undefined);
  }

  async send(...frames: object[]): Promise<void> {
    await until(() => this.socket.readyState !== WebSocket.CONNECTING);
    for (const frame of frames) this.socket.send(JSON.stringify(frame));
  }

  async first(type: string): Promise<Frame> {
    let found: Frame | undefined;
    await until(() => {
      found = this.frames.find((frame) => frame.type === type);
      return found !== undefined || this.closeCode !== undefined;
    });
    if (found === undefined) throw new Error(`no ${type}: ${JSON.stringify(this.frames)}`);
    return found;
  }

  async closed(): Promise<number> {
    await until(() => this.closeCode !== undefined);
    return this.closeCode ?? 0;
  }

  output(type: 'stdout' | 'stderr' | 'output'): Buffer {
    return Buffer.concat(
      this.frames
        .filter((frame) => frame.type === type)
        .map((frame) =>
          Buffer.from(
            String(frame.data),
            type === 'output' || frame.encoding === 'base64' ? 'base64' : 'utf8',
          ),
        ),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.terminate();
  }
}

const connect = (stream: string, headers?: Record<string, string>, sandbox = id) =>
  new Client(
    `/v1/sandboxes/${sandbox}/${stream}`,
    headers ?? { 'x-api-key': harness.controlPlane.apiKey },
  );

const base64 = (text: string) => Buffer.from(text).toString('base64');

describe('exec/stream', () => {
  test('start, output of both kinds, exit; every frame matches the schema', async () => {
    await using client = connect('exec/stream');
    await client.send({
      type: 'start',
      cmd: 'sh',
      args: ['-c', 'echo "$A"; echo err >&2; exit 7'],
      envs: { A: 'ö' },
    });
    expect(await client.closed()).toBe(1000);
    expect(client.frames[0]).toEqual({ type: 'start', pid: expect.any(Number) });
    expect(client.frames.at(-1)).toEqual({ type: 'exit', exit_code: 7 });
    expect(client.output('stdout').toString()).toBe('ö\n');
    expect(client.output('stderr').toString()).toBe('err\n');
    for (const frame of client.frames) rest.execServerFrameSchema.parse(frame);
  });

  test('bytes that are not text arrive unchanged', async () => {
    await using client = connect('exec/stream');
    const script = 'process.stdout.write(Buffer.from([...Array(256).keys()]))';
    await client.send({ type: 'start', cmd: process.execPath, args: ['-e', script] });
    await client.first('exit');
    expect([...client.output('stdout')]).toEqual([...Array(256).keys()]);
  });

  test('stdin arrives in order and complete, even if sent before the program runs', async () => {
    await using client = connect('exec/stream');
    const lines = Array.from({ length: 500 }, (_, n) => `line ${n}\n`);
    await client.send(
      { type: 'start', cmd: 'cat', stdin: true },
      ...lines.map((line) => ({ type: 'stdin', data: base64(line) })),
      { type: 'stdin_close' },
    );
    expect(await client.first('exit')).toEqual({ type: 'exit', exit_code: 0 });
    expect(client.output('stdout').toString()).toBe(lines.join(''));
  });

  test('stop kills the program', async () => {
    await using client = connect('exec/stream');
    await client.send({ type: 'start', cmd: 'sleep', args: ['600'] });
    await client.first('start');
    await client.send({ type: 'stop' });
    expect(await client.first('exit')).toMatchObject({ error: 'signal: SIGKILL' });
  });

  test('a disconnect kills the program', async () => {
    await using client = connect('exec/stream');
    await client.send({ type: 'start', cmd: 'sleep', args: ['600'] });
    const { pid } = await client.first('start');
    expect(harness.agent.programs.pids).toContain(pid);
    client.socket.terminate();
    await until(() => !harness.agent.programs.pids.includes(Number(pid)));
  });

  test('a disconnect kills a program that does not read its input', async () => {
    await using client = connect('exec/stream');
    const piece = base64('x'.repeat(100_000));
    await client.send(
      { type: 'start', cmd: 'sleep', args: ['600'], stdin: true },
      ...Array.from({ length: 5 }, () => ({ type: 'stdin', data: piece })),
    );
    const { pid } = await client.first('start');
    client.socket.terminate();
    await until(() => !harness.agent.programs.pids.includes(Number(pid)));
  });

  test('large output arrives complete, before the exit', async () => {
    await using client = connect('exec/stream');
    await client.send({
      type: 'start',
      cmd: process.execPath,
      args: ['-e', 'process.stdout.write(Buffer.alloc(8e6, 97))'],
    });
    await client.first('exit');
    expect(client.frames.at(-1)?.type).toBe('exit');
    expect(client.output('stdout').length).toBe(8e6);
  });

  test('a program that exceeds its timeout is an error of the user, not of the server', async () => {
    await using client = connect('exec/stream');
    await client.send({ type: 'start', cmd: 'sleep', args: ['600'], timeout_sec: 1 });
    expect(await client.first('error')).toMatchObject({ code: 'timeout', fatal: true });
    await client.closed();
    const entries = harness
      .log()
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    const failures = entries.filter(
      ({ msg, code }) => msg === 'Stream failed' && code === 'timeout',
    );
    expect(failures).toEqual([expect.objectContaining({ sandbox: id, level: 30 })]);
    expect(failures[0]).not.toHaveProperty('err');
  });

  test.each<[string, object[], string]>([
    ['a missing program', [{ type: 'start', cmd: 'no-such' }], 'program_not_found'],
    ['an unknown field', [{ type: 'start', cmd: 'true', shell: true }], 'invalid_request'],
    ['another first frame', [{ type: 'stop' }], 'invalid_request'],
    [
      'stdin that was not requested',
      [
        { type: 'start', cmd: 'sleep', args: ['600'] },
        { type: 'stdin', data: '' },
      ],
      'invalid_request',
    ],
    [
      'a second start amid the input',
      [
        { type: 'start', cmd: 'cat', stdin: true },
        { type: 'stdin', data: base64('x') },
        { type: 'start', cmd: 'cat' },
      ],
      'invalid_request',
    ],
  ])('%s is a fatal error frame', async (_, frames, code) => {
    await using client = connect('exec/stream');
    await client.send(...frames);
    expect(await client.first('error')).toMatchObject({ code, fatal: true });
    expect(await client.closed()).toBe(1008);
    await until(() => harness.agent.programs.pids.length === 0);
  });
});

describe('pty', () => {
  test('input, output, resize, exit', async () => {
    await using client = connect('pty');
    await client.send(
      { type: 'start', cmd: 'cat', cols: 100, rows: 30 },
      { type: 'input', data: base64('héllo ') },
      { type: 'input', data: base64('world') },
      { type: 'resize', cols: 120, rows: 40 },
    );
    expect(await client.first('started')).toMatchObject({
      tag: expect.stringMatching(/^pty-[0-9a-f]{8}$/),
    });
    await until(() => client.output('output').toString() === 'héllo world');
    await until(() => harness.agent.calls.includes('ptyResize 120x40'));
    await client.send({ type: 'kill' });
    expect(await client.first('exit')).toMatchObject({ error: 'signal: SIGKILL' });
    for (const frame of client.frames) rest.ptyServerFrameSchema.parse(frame);
  });

  test('keeps running when its client disconnects, and is found again by its tag', async () => {
    let tag: unknown;
    {
      await using client = connect('pty');
      await client.send({ type: 'start', cmd: 'cat' });
      tag = (await client.first('started')).tag;
    }
    await using client = connect('pty');
    await client.send({ type: 'connect', tag }, { type: 'input', data: base64('again') });
    await until(() => client.output('output').toString() === 'again');
    await client.send({ type: 'kill' });
    await client.first('exit');
  });

  test('an unknown tag is an error', async () => {
    await using client = connect('pty');
    await client.send({ type: 'connect', tag: 'pty-none' });
    expect(await client.first('error')).toMatchObject({ code: 'not_found', fatal: true });
  });
});

test('a process is attached to by its tag, reads input, and keeps running without the client', async () => {
  await harness.send('POST', `/v1/sandboxes/${id}/exec`, {
    cmd: 'cat',
    background: true,
    tag: 'echo',
  });
  {
    await using client = connect('processes/echo/stream');
    await client.send({ type: 'stdin', data: base64('one') });
    await until(() => client.output('stdout').toString() === 'one');
  }
  await using client = connect('processes/echo/stream');
  await client.first('start');
  await client.send({ type: 'stdin_close' });
  expect(await client.first('exit')).toMatchObject({ exit_code: 0 });
});

describe('admission', () => {
  test('by the first frame, for clients that cannot set headers', async () => {
    await using client = connect('exec/stream', {});
    await client.send(
      { type: 'auth', token: harness.controlPlane.apiKey },
      { type: 'start', cmd: 'true' },
    );
    expect(await client.first('exit')).toEqual({ type: 'exit', exit_code: 0 });
  });

  test('a wrong token, or another first frame, is refused, and nothing is started', async () => {
    const calls = harness.agent.count('execStream');
    for (const frame of [
      { type: 'auth', token: `tpr_${'0'.repeat(40)}` },
      { type: 'start', cmd: 'true' },
    ]) {
      await using client = connect('exec/stream', {});
      await client.send(frame, { type: 'start', cmd: 'true' });
      expect(await client.first('error')).toMatchObject({ fatal: true });
      expect(await client.closed()).toBe(1008);
    }
    expect(harness.agent.count('execStream')).toBe(calls);
  });

  test('a wrong key in the header is an HTTP 401, an unknown path a 404', async () => {
    await using wrong = connect('exec/stream', { 'x-api-key': 'tpr_nonsense' });
    await until(() => wrong.refusedWith === 401);
    await using path = connect('nothing/stream');
    await until(() => path.refusedWith === 404);
  });

  test('a selector that is neither a pid nor a tag is an HTTP 400, as in a plain request', async () => {
    await using client = connect('processes/a%20b/stream');
    await until(() => client.refusedWith === 400);
    const path = `/v1/sandboxes/${id}/processes/a%20b`;
    const response = await harness.request(path, { method: 'DELETE' });
    expect(response.status).toBe(400);
    expect(rest.errorBodySchema.parse(await response.json()).error).toMatchObject({
      code: 'invalid_request',
      issues: [{ field: 'selector', problem: 'must be a pid or a tag' }],
    });
  });

  test('a client that sends no token is disconnected', async () => {
    await using client = connect('exec/stream', {});
    expect(await client.first('error')).toMatchObject({ code: 'unauthorized', fatal: true });
  });

  test('an unknown sandbox, and one that does not run', async () => {
    await using unknown = connect('exec/stream', undefined, 'sbunknown');
    expect(await unknown.first('error')).toMatchObject({ code: 'not_found', fatal: true });
    const destroyed = await harness.create({ memory_mb: 128 });
    await harness.request(`/v1/sandboxes/${destroyed.id}`, { method: 'DELETE' });
    await using stopped = connect('pty', undefined, destroyed.id);
    expect(await stopped.first('error')).toMatchObject({ code: 'invalid_state', fatal: true });
  });
});
