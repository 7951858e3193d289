import { createHash, randomBytes } from 'node:crypto';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { type Client, ConnectError } from '@connectrpc/connect';
import { createStreamingClient, hostAgent, newId, TorporError } from '@torpor/protocol';
import { type RpcAgent, startRpcAgent, TRANSPORTS } from '@torpor/testkit/agent';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

/* The RPCs of the agent except those about files, over each transport. */

type InputMessage = MessageInitShape<typeof hostAgent.StreamProcessInputRequestSchema>;

let agent: RpcAgent;
let client: Client<typeof hostAgent.HostAgentService>;
let sandboxId: string;

const LABELS = { project: 'demo' };

beforeAll(async () => {
  agent = await startRpcAgent();
  sandboxId = newId('sandbox');
  const { HTTP: transport } = agent.transports;
  await createStreamingClient(hostAgent.HostAgentService, transport).createSandbox({
    sandboxId,
    vcpus: 1,
    memoryMb: 128,
    envs: { GREETING: 'hello' },
    defaultUser: 'root',
    denyInternet: true,
    timeoutSec: 600,
    autoPause: true,
    templateName: 'warm',
    labels: LABELS,
  });
});
afterAll(() => agent[Symbol.asyncDispose]());

function shell(script: string) {
  return { sandboxId, cmd: '/bin/sh', args: ['-c', script] };
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString();
}

async function codeOf(call: Promise<unknown>): Promise<string> {
  return TorporError.from(await call.catch((error: unknown) => error)).code;
}

/** Waits until a program with this command line runs, or does not. */
async function running(marker: string, expected: boolean): Promise<void> {
  await expect
    .poll(
      async () => {
        const { processes } = await client.listProcesses({ sandboxId });
        return processes.some((entry) => entry.args.includes(marker));
      },
      { timeout: 20_000 },
    )
    .toBe(expected);
}

describe.each(TRANSPORTS)('over %s', (transport) => {
  beforeAll(() => {
    client = createStreamingClient(hostAgent.HostAgentService, agent.transports[transport]);
  });

  test('a sandbox is returned with all fields of its database row', async () => {
    const { sandbox } = await client.getSandbox({ sandboxId });
    expect(sandbox).toMatchObject({
      status: 'running',
      denyInternet: true,
      timeoutSec: 600,
      autoPause: true,
      labels: LABELS,
      templateName: 'warm',
    });
    expect(sandbox?.startedAtUnix).toBeGreaterThanOrEqual(sandbox?.createdAtUnix ?? 0n);
    // Missing values are unset, not empty.
    expect([sandbox?.reason, sandbox?.buildId]).toEqual([undefined, undefined]);
  });

  describe('exec', () => {
    test('returns output and exit code, with the environment of the sandbox and of the call', async () => {
      const result = await client.exec({
        ...shell('echo "$GREETING $NAME $PWD"; echo oops >&2; exit 3'),
        envs: { NAME: 'world' },
        cwd: '/usr',
      });
      expect(text(result.stdout)).toBe('hello world /usr\n');
      expect(text(result.stderr)).toBe('oops\n');
      expect(result).toMatchObject({ exitCode: 3, stdoutDroppedBytes: 0n });
      expect(result.status).toBeUndefined();
    });

    test('says which signal terminated a program', async () => {
      const result = await client.exec(shell('kill -9 $$'));
      expect(result).toMatchObject({ exitCode: -1, status: 'signal: killed' });
    });

    test.each([
      ['4242', '4242:0\n'],
      ['4242:4343', '4242:4343\n'],
    ])('runs a program as the user %j', async (user, expected) => {
      const result = await client.exec({ ...shell('echo $(id -u):$(id -g)'), user });
      expect(text(result.stdout)).toBe(expected);
    });

    test.each([
      ['a program that does not exist', { cmd: '/no/such/program' }, 'program_not_found'],
      ['no program', { cmd: '' }, 'invalid_request'],
      ['a directory that does not exist', { cmd: 'true', cwd: '/no/such' }, 'invalid_request'],
      ['a user that does not exist', { cmd: 'true', user: 'nobody-at-all' }, 'invalid_request'],
      ['a group that does not exist', { cmd: 'true', user: 'root:ghosts' }, 'invalid_request'],
      ['a negative time limit', { cmd: 'true', timeoutSec: -1 }, 'invalid_request'],
    ])('refuses %s', async (_, request, code) => {
      expect(await codeOf(client.exec({ sandboxId, ...request }))).toBe(code);
    });

    test('kills the whole process group at the time limit, and returns its output', async () => {
      const error = await client
        .exec({ ...shell('echo begun; sleep 611 & sleep 611'), timeoutSec: 1 })
        .then(() => undefined, ConnectError.from);
      expect(TorporError.from(error).code).toBe('timeout');
      const [partial] = error?.findDetails(hostAgent.ExecResponseSchema) ?? [];
      expect(text(partial?.stdout ?? new Uint8Array())).toBe('begun\n');
      const { stdout } = await client.exec(shell('pgrep -f "sleep 61[1]" || echo none'));
      expect(text(stdout)).toBe('none\n');
    });

    test('keeps no more output than requested, and counts the rest', async () => {
      const result = await client.exec({
        ...shell('head -c 300000 /dev/zero; head -c 10 /dev/zero >&2'),
        maxOutputBytes: 1000n,
      });
      expect(result.stdout).toHaveLength(1000);
      expect(result.stdoutDroppedBytes).toBe(299_000n);
      expect(result.stderr).toHaveLength(10);
      expect(result.stderrDroppedBytes).toBe(0n);
    });

    test('kills the program when its caller has disconnected', async () => {
      const caller = new AbortController();
      const marker = `sleep 612.${process.pid}`;
      const call = client.exec(shell(marker), { signal: caller.signal });
      await running(marker, true);
      caller.abort();
      await expect(call).rejects.toThrow();
      await running(marker, false);
    });

    test('of a sandbox that does not exist is refused', async () => {
      const unknown = newId('sandbox');
      expect(await codeOf(client.exec({ sandboxId: unknown, cmd: 'true' }))).toBe('not_found');
      expect(await codeOf(client.pingSandbox({ sandboxId: unknown }))).toBe('not_found');
      expect(await codeOf(client.getSandbox({ sandboxId: unknown }))).toBe('not_found');
    });
  });

  describe('exec stream', () => {
    test('yields the events as they arrive', async () => {
      const events: string[] = [];
      let stdout = '';
      for await (const { event } of client.execStream(shell('echo a; echo b; exit 4'))) {
        if (event.case === 'data') stdout += text(event.value.output.value ?? new Uint8Array());
        else events.push(event.case ?? '');
        if (event.case === 'end') {
          expect([event.value.exitCode, event.value.error]).toEqual([4, undefined]);
        }
      }
      expect(events).toEqual(['start', 'end']);
      expect(stdout).toBe('a\nb\n');
    });

    test('takes input', async () => {
      let output = '';
      const stream = client.execStream({ sandboxId, cmd: 'cat', args: [], stdin: true });
      for await (const { event } of stream) {
        if (event.case === 'start') {
          const selector = { case: 'pid' as const, value: event.value.pid };
          const data = Buffer.from('to and fro');
          await client.sendProcessInput({ sandboxId, selector, data, end: true });
        }
        if (event.case === 'data') output += text(event.value.output.value ?? new Uint8Array());
      }
      expect(output).toBe('to and fro');
    });

    describe('with streamed input', () => {
      const BYTES = 5_000_000;
      const input = randomBytes(BYTES);

      async function* messages(pid: number, close: boolean): AsyncGenerator<InputMessage> {
        const selector = { case: 'pid' as const, value: pid };
        yield { content: { case: 'start', value: { sandboxId, selector } } };
        for (let at = 0; at < BYTES; at += 300_000) {
          yield { content: { case: 'data', value: input.subarray(at, at + 300_000) } };
        }
        if (close) yield { content: { case: 'close', value: {} } };
      }

      test('accepts all of it in order, and closes it', async () => {
        let output = '';
        const stream = client.execStream({ sandboxId, cmd: 'sha256sum', args: [], stdin: true });
        for await (const { event } of stream) {
          if (event.case === 'start') {
            await client.streamProcessInput(messages(event.value.pid, true));
          }
          if (event.case === 'data') output += text(event.value.output.value ?? new Uint8Array());
        }
        expect(output).toBe(`${createHash('sha256').update(input).digest('hex')}  -\n`);
      });

      test('leaves it open unless it is to be closed', async () => {
        let output = '';
        const stream = client.execStream({ sandboxId, cmd: 'wc', args: ['-c'], stdin: true });
        for await (const { event } of stream) {
          if (event.case === 'start') {
            await client.streamProcessInput(messages(event.value.pid, false));
            await client.streamProcessInput(messages(event.value.pid, true));
          }
          if (event.case === 'data') output += text(event.value.output.value ?? new Uint8Array());
        }
        expect(Number(output)).toBe(2 * BYTES);
      });

      test('waits for a program that does not read, until the caller disconnects', async () => {
        const leave = new AbortController();
        let taken = 0;
        async function* counted(pid: number) {
          for await (const message of messages(pid, true)) {
            taken += 1;
            yield message;
          }
        }
        const stream = client.execStream({ ...shell('sleep 615'), stdin: true });
        for await (const { event } of stream) {
          if (event.case !== 'start') break;
          const { pid } = event.value;
          const call = client.streamProcessInput(counted(pid), { signal: leave.signal });
          await expect.poll(() => taken).toBeGreaterThan(1);
          leave.abort();
          await expect(call).rejects.toThrow();
          const selector = { case: 'pid' as const, value: pid };
          await client.killProcess({ sandboxId, selector });
        }
      });

      test.each<[string, () => AsyncGenerator<InputMessage>, string]>([
        ['for a process that does not exist', () => messages(4_000_000, true), 'not_found'],
        [
          'for no process',
          async function* () {
            yield { content: { case: 'close', value: {} } };
          },
          'invalid_request',
        ],
      ])('is refused %s', async (_, of, code) => {
        expect(await codeOf(client.streamProcessInput(of()))).toBe(code);
      });
    });

    test('a program outlives its listener, and another can connect', async () => {
      const leave = new AbortController();
      const tag = `t-${newId('team')}`;
      const stream = client.execStream(
        { ...shell('echo first; read line; echo "got $line"'), tag, stdin: true },
        { signal: leave.signal },
      );
      await expect(
        (async () => {
          for await (const { event } of stream) if (event.case === 'data') leave.abort();
        })(),
      ).rejects.toThrow();
      const selector = { case: 'tag' as const, value: tag };
      let output = '';
      let exitCode: number | undefined;
      for await (const { event } of client.connectProcess({ sandboxId, selector })) {
        if (event.case === 'start') {
          const data = Buffer.from('it\n');
          await client.sendProcessInput({ sandboxId, selector, data });
        }
        if (event.case === 'data') output += text(event.value.output.value ?? new Uint8Array());
        if (event.case === 'end') exitCode = event.value.exitCode;
      }
      expect(output).toBe('first\ngot it\n');
      expect(exitCode).toBe(0);
    });

    test('fails with `timeout` at the time limit', async () => {
      const stream = client.execStream({ ...shell('echo begun; sleep 613'), timeoutSec: 1 });
      let output = '';
      const end = (async () => {
        for await (const { event } of stream) {
          if (event.case === 'data') output += text(event.value.output.value ?? new Uint8Array());
        }
      })();
      expect(await codeOf(end)).toBe('timeout');
      expect(output).toBe('begun\n');
    });

    test('the time limit applies even when the caller has disconnected', async () => {
      const leave = new AbortController();
      const marker = `sleep 614.${process.pid}`;
      const stream = client.execStream(
        { ...shell(marker), timeoutSec: 1 },
        { signal: leave.signal },
      );
      await expect(
        (async () => {
          for await (const { event } of stream) if (event.case === 'start') leave.abort();
        })(),
      ).rejects.toThrow();
      await running(marker, false);
    });
  });

  describe('processes', () => {
    test('one in the background is listed by its tag and can be killed', async () => {
      const { pid, tag } = await client.startBackground({ ...shell('sleep 615') });
      expect(tag).toMatch(/^proc-[0-9a-f]{8}$/);
      const { processes } = await client.listProcesses({ sandboxId });
      expect(processes).toContainEqual(
        expect.objectContaining({ pid, tag, cmd: '/bin/sh', args: ['-c', 'sleep 615'] }),
      );
      const selector = { case: 'tag' as const, value: tag };
      await client.killProcess({ sandboxId, selector, signal: 'SIGTERM' });
      await running('sleep 615', false);
      expect(await codeOf(client.killProcess({ sandboxId, selector }))).toBe('not_found');
    });

    test('a selector is needed, and a signal that exists', async () => {
      expect(await codeOf(client.killProcess({ sandboxId }))).toBe('invalid_request');
      const selector = { case: 'pid' as const, value: 1 };
      expect(await codeOf(client.killProcess({ sandboxId, selector, signal: 'SIGFOO' }))).toBe(
        'invalid_request',
      );
    });
  });

  describe('terminals', () => {
    test('one gets input, and can be resized, disconnected, found again and killed', async () => {
      const leave = new AbortController();
      const events = client.ptyAttach(
        { sandboxId, cmd: '/bin/sh', args: ['-i'], cols: 90, rows: 20 },
        { signal: leave.signal },
      );
      let tag = '';
      let output = '';
      const typed = async (line: string) => {
        await client.ptySendInput({ sandboxId, tag, data: Buffer.from(`${line}\n`) });
      };
      await expect(
        (async () => {
          for await (const { event } of events) {
            if (event.case === 'started') {
              ({ tag } = event.value);
              await typed('stty size; echo "term=$TERM"');
            }
            if (event.case === 'output') output += text(event.value.data);
            if (/20 90.*term=xterm-256color/s.test(output)) leave.abort();
          }
        })(),
      ).rejects.toThrow();
      expect(tag).toMatch(/^pty-[0-9a-f]{8}$/);

      await client.ptyResize({ sandboxId, tag, cols: 100, rows: 30 });
      output = '';
      let exited = false;
      for await (const { event } of client.ptyAttach({ sandboxId, tag })) {
        if (event.case === 'started') await typed('stty size');
        if (event.case === 'output') output += text(event.value.data);
        if (event.case === 'exited') exited = true;
        if (event.case === 'output' && /30 100/.test(output)) {
          await client.ptyKill({ sandboxId, tag });
          output = '';
        }
      }
      expect(exited).toBe(true);
      expect(await codeOf(client.ptySendInput({ sandboxId, tag, data: new Uint8Array(1) }))).toBe(
        'not_found',
      );
    });

    test('an impossible size, and a missing tag, are refused', async () => {
      expect(await codeOf(client.ptyResize({ sandboxId, tag: 'x', cols: 70_000, rows: 1 }))).toBe(
        'invalid_request',
      );
      for (const request of [{ cmd: 'bash', cols: 80 }, { cmd: 'bash', rows: 24 }, {}]) {
        const attached = (async () => {
          for await (const _ of client.ptyAttach({ sandboxId, ...request }));
        })();
        expect(await codeOf(attached)).toBe('invalid_request');
      }
      expect(await codeOf(client.ptyKill({ sandboxId }))).toBe('invalid_request');
    });
  });

  describe('the host', () => {
    test('describes itself', async () => {
      expect(await client.describeHost({})).toMatchObject({
        maxVcpus: 4,
        maxMemoryMb: 4096n,
        versions: { agent_version: '0.1.0' },
        images: [{ name: 'base', sizeBytes: 7n, createdAtUnix: 5n }],
      });
    });

    test('returns the console of a sandbox, or its last bytes', async () => {
      const all = await client.readConsole({ sandboxId });
      expect(text(all.content)).toMatch(/Linux boots.*no such device/s);
      const end = await client.readConsole({ sandboxId, maxBytes: 8 });
      expect(text(end.content)).toBe('device\r\n');
    });

    test('sends a watcher every sandbox and then every change', async () => {
      const stop = new AbortController();
      const seen: string[] = [];
      const doomed = newId('sandbox');
      const watch = (async () => {
        for await (const { event } of client.watchSandboxes({}, { signal: stop.signal })) {
          if (event.case === 'synchronised') {
            seen.push('synchronised');
            // envd belongs to the first sandbox: the second fails at /init, which is a change
            // as well.
            expect(
              await codeOf(client.createSandbox({ sandboxId: doomed, vcpus: 1, memoryMb: 128 })),
            ).not.toBe('internal_error');
          }
          if (event.case === 'sandbox') {
            const { sandboxId: id, status } = event.value;
            seen.push(`${id === sandboxId ? 'first' : 'second'} ${status}`);
            if (status === 'error') stop.abort();
          }
        }
      })();
      await expect(watch).rejects.toThrow();
      expect(seen).toEqual(['first running', 'synchronised', 'second creating', 'second error']);
    });

    test.each([
      ['0 vCPUs', { vcpus: 0, memoryMb: 128 }, 'invalid_request'],
      ['10,000 vCPUs', { vcpus: 10_000, memoryMb: 128 }, 'capacity_exceeded'],
      ['too much memory', { vcpus: 1, memoryMb: 1_000_000_000 }, 'capacity_exceeded'],
      ['an unknown image', { vcpus: 1, memoryMb: 128, templateId: 'nope' }, 'not_found'],
    ])('refuses a sandbox with %s', async (_, request, code) => {
      expect(await codeOf(client.createSandbox({ sandboxId: newId('sandbox'), ...request }))).toBe(
        code,
      );
      const { sandboxes } = await client.listSandboxes({});
      expect(sandboxes.map((sandbox) => sandbox.sandboxId)).toEqual([sandboxId]);
    });
  });
});
