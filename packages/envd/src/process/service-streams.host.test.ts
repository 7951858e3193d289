import { Code } from '@connectrpc/connect';
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

const daemon = ProcessDaemon.forAllTests();
let client: ProcessClient;

beforeEach(() => {
  client = daemon.client();
});

describe('following', () => {
  it('sends every follower all output, even when one disconnects', async () => {
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

  it('lets a process without a follower keep writing', async () => {
    const started = client.start(
      shell('read go; head -c 5000000 /dev/zero; echo done', { stdin: true, tag: 'alone' }),
    );
    const { pid } = await collect(started, () => true);
    await client.sendInput({ ...byTag('alone'), input: stdin('go\n') });
    const outcome = await collect(client.connect(byPid(pid)));
    expect(outcome.end?.exitCode).toBe(0);
    expect(outcome.stdout.endsWith('done\n')).toBe(true);
  });

  it('sends keepalives at the interval that the client requests', async () => {
    const stream = client.start(shell('sleep 600'), {
      headers: { 'Keepalive-Ping-Interval': '1' },
    });
    const outcome = await collect(stream, ({ keepalives }) => keepalives === 2);
    expect(outcome.keepalives).toBe(2);
  });

  it('kills the process when the deadline of its start passes, not when the client disconnects', async () => {
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
  it('waits until the program reads it, and reports a closed one', async () => {
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

  it('stops with the client when the program does not read', async () => {
    const started = client
      .start(shell('sleep 600', { stdin: true, tag: 'deaf' }))
      [Symbol.asyncIterator]();
    await started.next();
    const big = { ...byTag('deaf'), input: stdin('x'.repeat(4_000_000)) };
    const error = await failureOf(client.sendInput(big, { timeoutMs: 500 }));
    expect(error.code).toBe(Code.DeadlineExceeded);
  });

  it('is refused if it is of the other kind', async () => {
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
