import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { get } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

/** Much more than the daemon may use for it. */
const FILE_MIB = Number(process.env.TORPOR_TEST_FILE_MIB ?? '256');
const ALLOWED_MIB = 160;

let envd: ChildProcess;
let base: string;
let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-memory-'));
  const main = join(import.meta.dirname, '../main.ts');
  envd = spawn(process.execPath, [main, '--host', '127.0.0.1', '--port', '0'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  base = await new Promise<string>((resolve, reject) => {
    envd.once('exit', (code) => reject(new Error(`envd exited with ${code}`)));
    if (envd.stderr === null) return reject(new Error('envd has no standard error'));
    createInterface(envd.stderr).on('line', (line) => {
      const port = /listening on \S+:(\d+)/.exec(line)?.[1];
      if (port !== undefined) resolve(`http://127.0.0.1:${port}`);
    });
  });
});

afterEach(async () => {
  envd.removeAllListeners('exit');
  const exited = new Promise((resolve) => envd.once('exit', resolve));
  if (envd.exitCode === null && envd.kill('SIGTERM')) await exited;
  await rm(directory, { recursive: true, force: true });
});

/** The peak memory use of the daemon, in MiB. */
async function peakMiB(): Promise<number> {
  const status = await readFile(`/proc/${envd.pid}/status`, 'utf8');
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) / 1024;
}

function bodyOf(mebibytes: number): ReadableStream<Uint8Array> {
  const chunk = randomBytes(1024 * 1024);
  let sent = 0;
  return new ReadableStream<Uint8Array>({
    pull(controller) {
      if (sent++ === mebibytes) controller.close();
      else controller.enqueue(chunk);
    },
  });
}

it('moves files that are larger than its memory', { timeout: 300_000 }, async () => {
  const path = join(directory, 'large');
  const url = `${base}/files?path=${encodeURIComponent(path)}`;
  const upload = async (mebibytes: number) => {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/octet-stream' },
      body: bodyOf(mebibytes),
      duplex: 'half',
    } as RequestInit);
    expect([response.status, await response.text()]).toEqual([200, expect.any(String)]);
  };
  await upload(1);
  const idle = await peakMiB();
  for (const round of ['new', 'existing']) {
    await upload(FILE_MIB);
    expect([round, (await stat(path)).size]).toEqual([round, FILE_MIB * 1024 * 1024]);
  }
  const stored = await hashOf(createReadStream(path));
  // Random bytes: compressing them would exceed the time limits of clients.
  for (const [accepted, sent] of [
    ['identity', null],
    ['gzip, deflate', null],
    ['gzip, identity;q=0', 'gzip'],
  ] as const) {
    const response = await fetch(url, { headers: { 'accept-encoding': accepted } });
    expect(response.headers.get('content-encoding')).toBe(sent);
    expect([accepted, await hashOf(response.body ?? [])]).toEqual([accepted, stored]);
  }
  expect((await peakMiB()) - idle).toBeLessThan(ALLOWED_MIB);
});

it('closes the files of clients that disconnect in the middle', { timeout: 60_000 }, async () => {
  const path = join(directory, 'file');
  await writeFile(path, randomBytes(32 * 1024 * 1024));
  const url = `${base}/files?path=${encodeURIComponent(path)}`;
  const openFiles = async () => (await readdir(`/proc/${envd.pid}/fd`)).length;
  const before = await openFiles();
  for (const accepted of ['identity', 'gzip, identity;q=0']) {
    const headers = { 'accept-encoding': accepted };
    const downloads = Array.from({ length: 20 }, async () => {
      const [response] = await once(get(url, { headers, agent: false }), 'response');
      await once(response, 'readable');
      response.destroy();
    });
    await Promise.all(downloads);
    await vi.waitFor(async () => expect(await openFiles()).toBeLessThanOrEqual(before), 20_000);
  }
});

async function hashOf(chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of chunks) hash.update(chunk);
  return hash.digest('hex');
}
