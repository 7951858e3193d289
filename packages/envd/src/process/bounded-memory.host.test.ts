import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { createInterface } from 'node:readline';
import { createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { envdProcess } from '@torpor/protocol';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const GIB = 1024 ** 3;
const MIB = 1024 ** 2;
/** Transferring a gibibyte is slow on a loaded machine. */
const TIMEOUT_MS = 300_000;
/** Node's own footprint is about 80 MiB, plus data in flight. */
const ALLOWED_GROWTH_BYTES = 150 * MIB;

let daemon: ChildProcess;
let baseUrl: string;

beforeAll(async () => {
  const main = new URL('../main.ts', import.meta.url).pathname;
  daemon = spawn(process.execPath, [main, '--host', '127.0.0.1', '--port', '0'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  if (daemon.stderr === null) throw new Error('envd has no stderr');
  for await (const line of createInterface(daemon.stderr)) {
    const port = /listening on \S+:(\d+)/.exec(line)?.[1];
    if (port === undefined) continue;
    baseUrl = `http://127.0.0.1:${port}`;
    break;
  }
});

afterAll(async () => {
  const exited = once(daemon, 'exit');
  daemon.kill('SIGTERM');
  await exited;
});

const client = (useBinaryFormat = true) =>
  createClient(
    envdProcess.Process,
    createConnectTransport({ baseUrl, httpVersion: '1.1', useBinaryFormat }),
  );

/** A field of proc_pid_status(5) in bytes. */
function memoryOf(pid: number | undefined, field: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1]) * 1024;
}

const zeros = (bytes: number, tag: string) => ({
  process: { cmd: 'head', args: ['-c', String(bytes), '/dev/zero'] },
  stdin: false,
  tag,
});

describe('the memory of envd', () => {
  it(
    'stays bounded under 1 GiB of output, and none of it is lost',
    async () => {
      const before = memoryOf(daemon.pid, 'VmRSS');
      let received = 0;
      for await (const { event } of client().start(zeros(GIB, 'flood'))) {
        if (event?.event.case !== 'data') continue;
        received += event.event.value.output.value?.length ?? 0;
      }
      expect(received).toBe(GIB);
      expect(memoryOf(daemon.pid, 'VmHWM') - before).toBeLessThan(ALLOWED_GROWTH_BYTES);
    },
    TIMEOUT_MS,
  );

  it(
    'stays bounded without a follower',
    async () => {
      const before = memoryOf(daemon.pid, 'VmRSS');
      for await (const { event } of client().start(zeros(GIB / 4, 'ignored'))) {
        if (event?.event.case === 'start') break;
      }
      let end: number | undefined;
      for await (const { event } of client().connect({
        process: { selector: { case: 'tag', value: 'ignored' } },
      })) {
        if (event?.event.case === 'end') end = event.event.value.exitCode;
      }
      expect(end).toBe(0);
      expect(memoryOf(daemon.pid, 'VmRSS') - before).toBeLessThan(ALLOWED_GROWTH_BYTES);
    },
    TIMEOUT_MS,
  );

  it('stays bounded when the client does not read: the program waits instead', async () => {
    const before = memoryOf(daemon.pid, 'VmRSS');
    const message = Buffer.from(JSON.stringify(zeros(GIB, 'stuck')));
    const envelope = Buffer.alloc(5);
    envelope.writeUInt32BE(message.length, 1);
    const call = request(`${baseUrl}/process.Process/Start`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/connect+json', 'Connect-Protocol-Version': '1' },
    });
    call.end(Buffer.concat([envelope, message]));
    const [response] = await once(call, 'response');
    try {
      const { processes } = await client().list({});
      const pid = processes.find(({ tag }) => tag === 'stuck')?.pid;
      await expect
        .poll(() => readFileSync(`/proc/${pid}/wchan`, 'utf8'), { timeout: 30_000 })
        .toMatch(/pipe_write/);
      expect(memoryOf(daemon.pid, 'VmRSS') - before).toBeLessThan(ALLOWED_GROWTH_BYTES);
    } finally {
      response.destroy();
      await client().sendSignal({
        process: { selector: { case: 'tag', value: 'stuck' } },
        signal: envdProcess.Signal.SIGKILL,
      });
    }
  });
});
