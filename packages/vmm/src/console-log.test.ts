import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { ConsoleLog, readLastLines, readTail } from './console-log.ts';

async function logPath(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-console-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  return join(directory, 'console.log');
}

test('what is written can be read back, also after the log is opened again', async () => {
  const path = await logPath();
  const log = await ConsoleLog.open(path, 4096);
  await log.write(Buffer.from('one\r\n'));
  await log.write(Buffer.from('two\r\n'));
  await log.close();
  const again = await ConsoleLog.open(path, 4096);
  await again.write(Buffer.from('three\r\n'));
  await again.close();
  expect((await readTail(path, 4096)).toString()).toBe('one\r\ntwo\r\nthree\r\n');
  expect((await readTail(path, 7)).toString()).toBe('three\r\n');
  expect(await readLastLines(path, 2)).toEqual(['two', 'three']);
});

test('the log never grows beyond its bound and keeps what was written last', async () => {
  const path = await logPath();
  const log = await ConsoleLog.open(path, 4096);
  for (let line = 0; line < 2_000; line++) {
    await log.write(Buffer.from(`line ${line}\n`));
    expect((await stat(path)).size).toBeLessThanOrEqual(4096);
  }
  await log.close();
  expect(await readLastLines(path, 3)).toEqual(['line 1997', 'line 1998', 'line 1999']);
  expect((await readTail(path, 4096)).length).toBeGreaterThan(2000);
  expect(await readdir(join(path, '..'))).toEqual(['console.log']);
});

test('the bound applies to a log that an earlier process filled, and to one huge write', async () => {
  const path = await logPath();
  const log = await ConsoleLog.open(path, 4096);
  await log.write(Buffer.alloc(4000, 'a'));
  await log.close();
  const again = await ConsoleLog.open(path, 4096);
  await again.write(Buffer.concat([Buffer.alloc(1_000_000, 'b'), Buffer.from('\nlast\n')]));
  await again.close();
  expect((await stat(path)).size).toBeLessThanOrEqual(4096);
  expect(await readLastLines(path, 1)).toEqual(['last']);
});

test('writes keep their order without being awaited one by one', async () => {
  const path = await logPath();
  const log = await ConsoleLog.open(path, 65536);
  const numbers = Array.from({ length: 200 }, (_, index) => String(index));
  await Promise.all(numbers.map((number) => log.write(Buffer.from(`${number}\n`))));
  await log.close();
  expect(await readLastLines(path, 200)).toEqual(numbers);
});

test('a log that does not exist is empty', async () => {
  expect(await readLastLines(await logPath(), 5)).toEqual([]);
});
