import { writeSync } from 'node:fs';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ConsolePipe, makeConsolePipe, openForFirecracker } from './console-pipe.ts';

let directory: string;
let path: string;
let log: { readonly path: string; readonly maxBytes: number };

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-console-'));
  path = join(directory, 'pipe');
  log = { path: join(directory, 'log'), maxBytes: 64 * 1024 };
  await makeConsolePipe(path);
});

afterEach(() => rm(directory, { recursive: true }));

const ignore = () => undefined;

test('what is printed is in the log when the writer has exited', async () => {
  const pipe = await ConsolePipe.open(path, log, ignore);
  {
    await using writer = await openForFirecracker(path);
    writeSync(writer.fd, 'first\r\nsecond\r\n');
  }
  await pipe.finished;
  expect(await readFile(log.path, 'utf8')).toBe('first\r\nsecond\r\n');
  expect((await stat(path)).mode & 0o777).toBe(0o600);
});

test('a writer neither waits nor fails while there is no reader, and the next reader continues', async () => {
  await using writer = await openForFirecracker(path);
  const first = await ConsolePipe.open(path, log, ignore);
  await first.close();
  const line = Buffer.alloc(4096, 'x');
  let written = 0;
  const fill = () => {
    for (;;) written += writeSync(writer.fd, line);
  };
  expect(fill).toThrow('EAGAIN');
  expect(written).toBeGreaterThan(0);
  const next = await ConsolePipe.open(path, { ...log, maxBytes: 2 ** 20 }, ignore);
  await vi.waitFor(async () => expect((await stat(log.path)).size).toBe(written));
  await next.close();
});

test('the log stays within its bound', async () => {
  const pipe = await ConsolePipe.open(path, log, ignore);
  const line = `${'x'.repeat(1022)}\r\n`;
  {
    await using writer = await openForFirecracker(path);
    for (let count = 0; count < 300; count++) {
      await vi.waitFor(() => writeSync(writer.fd, line), { interval: 1 });
    }
    writeSync(writer.fd, 'the end');
  }
  await pipe.finished;
  const text = await readFile(log.path, 'utf8');
  expect(text.length).toBeLessThanOrEqual(log.maxBytes);
  expect(text.endsWith('the end')).toBe(true);
});

test.each(['Power down', 'System halted', 'Power off not available: System halted instead'])(
  'a kernel that says "%s" has halted, in however many chunks it arrives',
  async (message) => {
    const onHalted = vi.fn();
    const pipe = await ConsolePipe.open(path, log, onHalted);
    {
      await using writer = await openForFirecracker(path);
      const line = `guest: reboot: Power down?\r\n[    3.14] reboot: ${message}\r\n`;
      for (const piece of line.match(/.{1,7}|[\r\n]+/g) ?? []) {
        expect(onHalted).not.toHaveBeenCalled();
        const before = await stat(log.path).then(({ size }) => size);
        writeSync(writer.fd, piece);
        await vi.waitFor(async () => expect((await stat(log.path)).size).toBeGreaterThan(before));
        if (onHalted.mock.calls.length > 0) break;
      }
    }
    await pipe.finished;
    expect(onHalted).toHaveBeenCalled();
  },
);
