import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { packTree } from './pack.ts';
import { FILE_TREE_PROGRAM } from './program-path.ts';
import type { FileTreeRequest } from './program-request.ts';
import { RECORD, readRecords } from './records.ts';
import { failureOf } from './unpack.ts';

let root: string;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'torpor-program-'));
});
afterEach(() => rm(root, { recursive: true }));

function start(request: FileTreeRequest) {
  const script =
    'const { main } = await import(process.argv[1]); await main(process.argv[2], process.stdin); process.exit(0)';
  const args = ['--input-type=module', '-e', script, FILE_TREE_PROGRAM, JSON.stringify(request)];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  return { child, records: readRecords(child.stdout) };
}

test('a receiver whose input stays open and silent removes what it made, and reports why', async () => {
  await writeFile(join(root, 'file'), 'content');
  const { child, records } = start({
    role: 'receive',
    destination: join(root, 'copy'),
    archive: false,
    keepSetId: false,
    silenceLimitMs: 200,
  });
  const exited = once(child, 'exit');
  for await (const chunk of packTree(join(root, 'file'), { archive: false })) {
    child.stdin.write(chunk.subarray(0, chunk.length - 1));
  }
  const received = await Array.fromAsync(records);
  expect(await exited).toEqual([0, null]);
  expect(received.map(({ type }) => type)).toEqual([RECORD.ready, RECORD.failure]);
  expect(failureOf(received[1]?.body ?? Buffer.alloc(0)).message).toBe(
    'Nothing was received for 0.2 s.',
  );
  expect(await readdir(root)).toEqual(['file']);
});

test('a sender whose reader has exited exits', async () => {
  const { child } = start({ role: 'send', path: '/dev/zero', archive: false });
  const exited = once(child, 'exit');
  child.stdout.once('data', () => child.stdout.destroy());
  expect(await exited).toEqual([1, null]);
});
