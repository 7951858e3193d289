import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Arena } from './arena.ts';
import { FileMapping } from './file-mapping.ts';
import { SystemError } from './libc.ts';
import { closeFd } from './poll.ts';
import { createUserfaultfd, uffdCopy, uffdRegister } from './userfaultfd.ts';

const PAGE = 4096;
const PAGES = 64;

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-mapping-'));
});
afterAll(() => rm(directory, { recursive: true }));

async function writePages(name: string): Promise<string> {
  const path = join(directory, name);
  const pages = Array.from({ length: PAGES }, (_, page) => Buffer.alloc(PAGE, page + 1));
  await writeFile(path, Buffer.concat(pages));
  return path;
}

test('a system call reads the file’s pages from their addresses', async () => {
  using mapping = FileMapping.open(await writePages('whole'));
  using memory = new Arena(PAGE);
  const fd = createUserfaultfd(0);
  try {
    uffdRegister(fd, memory.address, PAGE);
    mapping.populate(0, PAGES * PAGE);
    expect(uffdCopy(fd, memory.address, mapping.address + 41 * PAGE, PAGE)).toBe(PAGE);
    expect(memory.bytes.every((byte) => byte === 42)).toBe(true);
    mapping.forget(0, PAGES * PAGE);
  } finally {
    closeFd(fd);
  }
});

test('a file that is truncated meanwhile makes the call fail with EFAULT, without a signal', async () => {
  const path = await writePages('cut');
  using mapping = FileMapping.open(path);
  using memory = new Arena(PAGE);
  await truncate(path, PAGE);
  const fd = createUserfaultfd(0);
  try {
    uffdRegister(fd, memory.address, PAGE);
    mapping.populate(0, PAGES * PAGE);
    const copy = () => uffdCopy(fd, memory.address, mapping.address + 2 * PAGE, PAGE);
    expect(copy).toThrow(
      new SystemError('ioctl(UFFDIO_COPY or UFFDIO_ZEROPAGE)', constants.errno.EFAULT),
    );
  } finally {
    closeFd(fd);
  }
});

test('an empty file is an empty mapping', async () => {
  const path = join(directory, 'empty');
  await writeFile(path, '');
  using mapping = FileMapping.open(path);
  expect(mapping.size).toBe(0);
});
