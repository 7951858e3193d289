import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, expect, it } from 'vitest';

/** Much more than the daemon may take for it. */
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
    envd.once('exit', (code) => reject(new Error(`envd ended with ${code}`)));
    if (envd.stderr === null) return reject(new Error('envd has no standard error'));
    createInterface(envd.stderr).on('line', (line) => {
      const port = /listening on \S+:(\d+)/.exec(line)?.[1];
      if (port !== undefined) resolve(`http://127.0.0.1:${port}`);
    });
  });
});

afterEach(async () => {
  envd.removeAllListeners('exit');
  const ended = new Promise((resolve) => envd.once('exit', resolve));
  if (envd.exitCode === null && envd.kill('SIGTERM')) await ended;
  await rm(directory, { recursive: true, force: true });
});

/** The most memory that the daemon ever had in use, in MiB. */
async function peakMiB(): Promise<number> {
  const status = await readFile(`/proc/${envd.pid}/status`, 'utf8');
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) / 1024;
}

function bodyOf(mebibytes: number): ReadableStream<Uint8Array> {
  const chunk = Buffer.alloc(1024 * 1024, 'torpor');
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
  for (const encoding of ['identity', 'gzip']) {
    const response = await fetch(url, { headers: { 'accept-encoding': encoding } });
    let received = 0;
    for await (const chunk of response.body ?? []) received += chunk.length;
    expect([encoding, received]).toEqual([encoding, FILE_MIB * 1024 * 1024]);
  }
  expect((await peakMiB()) - idle).toBeLessThan(ALLOWED_MIB);
});
