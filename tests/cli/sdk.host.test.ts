import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { type Sandbox, Torpor, TorporError } from '@torpor/sdk';
import { type Harness, startHarness } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const resources = new AsyncDisposableStack();
let harness: Harness;
let torpor: Torpor;
let sandbox: Sandbox;

beforeAll(async () => {
  harness = resources.use(await startHarness());
  const { url, apiKey } = harness.controlPlane;
  torpor = resources.use(new Torpor({ apiUrl: url, apiKey }));
  sandbox = resources.use(await torpor.sandboxes.create({ metadata: { suite: 'sdk' } }));
});
afterAll(() => resources.disposeAsync());

describe('exec', () => {
  test('returns text and bytes, also of output that is not text', async () => {
    const result = await sandbox.exec('printf', ['\\377\\0x']);
    expect([...result.stdoutBytes]).toEqual([0xff, 0, 0x78]);
    expect(result).toMatchObject({ exitCode: 0, stderr: '', truncated: false });
  });

  test('passes the environment on, and a failed program is a result', async () => {
    const result = await sandbox.exec('sh', ['-c', 'echo $A; exit 3'], { envs: { A: 'b c' } });
    expect(result).toMatchObject({ stdout: 'b c\n', exitCode: 3 });
  });

  test('an abort rejects with its reason', async () => {
    const reason = new Error('enough');
    const controller = new AbortController();
    const running = sandbox.exec('sleep', ['600'], { signal: controller.signal, timeoutMs: 0 });
    setImmediate(() => controller.abort(reason));
    await expect(running).rejects.toBe(reason);
  });
});

describe('execStream', () => {
  test('a reader that waits gets everything, and the program is slowed down meanwhile', async () => {
    const bytes = 8 * 1024 * 1024;
    await using session = await sandbox.execStream('head', ['-c', String(bytes), '/dev/zero']);
    let received = 0;
    for await (const { stream, data } of session.output()) {
      expect(stream).toBe('stdout');
      received += data.length;
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(received).toBe(bytes);
    expect(await session.wait()).toEqual({ exitCode: 0 });
  });

  describe.each([{ binary: false }, { binary: true }])('as %o', ({ binary }) => {
    test('input arrives in order and its end is seen', async () => {
      const input = randomBytes(1_500_000);
      await using session = await sandbox.execStream('cat', [], { stdin: true, binary });
      const output = Array.fromAsync(session.output(), ({ data }) => data);
      await session.write(input);
      await session.write('x');
      await session.closeStdin();
      const all = Buffer.concat(await output);
      expect(all.equals(Buffer.concat([input, Buffer.from('x')]))).toBe(true);
    });

    test('a program without standard input refuses input', async () => {
      await using session = await sandbox.execStream('sleep', ['600'], { binary });
      await session.write('x');
      await expect(session.wait()).rejects.toMatchObject({ code: 'invalid_request' });
    });
  });

  test.each([false, true])(
    'the two outputs are separate (binary: %s), and several callers may wait for the exit',
    async (binary) => {
      const script = 'echo a; echo b >&2; exit 4';
      await using session = await sandbox.execStream('sh', ['-c', script], { binary });
      const chunks = await Array.fromAsync(session.output());
      const text = (stream: string) =>
        chunks.filter((chunk) => chunk.stream === stream).map(({ data }) => data.toString());
      expect([text('stdout').join(''), text('stderr').join('')]).toEqual(['a\n', 'b\n']);
      expect(await session.wait()).toEqual({ exitCode: 4 });
    },
  );

  test('a program that does not exist is an error with a code', async () => {
    await expect(sandbox.execStream('no-such-program')).rejects.toMatchObject({
      code: 'program_not_found',
    });
  });
});

describe('files', () => {
  test('a stream is written and read as a stream', async () => {
    const blocks = Array.from({ length: 50 }, (_, index) => Buffer.alloc(64 * 1024, index));
    await sandbox.files.write('/streamed', Readable.from(blocks));
    const back = await (await sandbox.files.readStream('/streamed')).toArray();
    expect(Buffer.concat(back).equals(Buffer.concat(blocks))).toBe(true);
  });

  test('directories are created, listed and removed', async () => {
    await sandbox.files.makeDir('/d');
    await expect(sandbox.files.makeDir('/d')).rejects.toMatchObject({ code: 'already_exists' });
    await sandbox.files.write('/d/ä b', 'text');
    expect(await sandbox.files.list('/d')).toEqual([
      expect.objectContaining({ name: 'ä b', type: 'file', size: 4 }),
    ]);
    expect(await sandbox.files.readText('/d/ä b')).toBe('text');
    await sandbox.files.remove('/d');
    await expect(sandbox.files.read('/d/ä b')).rejects.toMatchObject({ code: 'not_found' });
  });
});

describe('sandboxes', () => {
  test('are found by state and label', async () => {
    const found = await Array.fromAsync(
      torpor.sandboxes.list({ states: ['running'], metadata: { suite: 'sdk' } }),
    );
    expect(found.map(({ id }) => id)).toEqual([sandbox.id]);
    expect(await Array.fromAsync(torpor.sandboxes.list({ metadata: { suite: 'no' } }))).toEqual([]);
  });

  test('an unknown one is an error with code, message and remedy', async () => {
    const error = await torpor.sandboxes.get('sb1/../..?x').catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(TorporError);
    expect(error).toMatchObject({
      code: 'not_found',
      message: expect.any(String),
      remedy: 'List the sandboxes to see which exist.',
    });
  });

  test('bad options are refused by the server with a code', async () => {
    await expect(torpor.sandboxes.create({ template: 'nope' })).rejects.toMatchObject({
      code: 'not_found',
    });
    await expect(torpor.sandboxes.create({ vcpus: 0 })).rejects.toMatchObject({
      code: 'invalid_request',
    });
  });
});

test('without a server the error says how to start one', async () => {
  await using nowhere = new Torpor({ apiUrl: 'http://127.0.0.1:1', apiKey: 'tpr_x' });
  await expect(nowhere.health()).rejects.toMatchObject({
    code: 'host_unavailable',
    remedy: expect.stringContaining('npm start'),
  });
});

test('an invalid address is refused at once', () => {
  expect(() => new Torpor({ apiUrl: 'localhost:7070' })).toThrow(
    expect.objectContaining({ code: 'invalid_request' }),
  );
});
