import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Arena } from './arena.ts';
import { closeFd, PollSet, WakeUp } from './poll.ts';
import {
  acceptUnix,
  connectUnix,
  listenUnix,
  peerCredentials,
  receiveWithFds,
  sendWithFd,
} from './unix-socket.ts';
import {
  createUserfaultfd,
  UFFD_FEATURE_EVENT_REMOVE,
  uffdCopy,
  uffdRegister,
  uffdZero,
} from './userfaultfd.ts';

const PAGE = 4096;

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-uffd-'));
});
afterAll(() => rm(directory, { recursive: true }));

describe('userfaultfd', () => {
  test('pages that are copied or zeroed are present; a page that is present already stops the copy', () => {
    using memory = new Arena(8 * PAGE);
    using source = new Arena(8 * PAGE);
    source.bytes.fill(7);
    const fd = createUserfaultfd(UFFD_FEATURE_EVENT_REMOVE);
    try {
      uffdRegister(fd, memory.address, 8 * PAGE);
      expect(uffdCopy(fd, memory.address + 2 * PAGE, source.address, PAGE)).toBe(PAGE);
      expect(uffdZero(fd, memory.address, PAGE)).toBe(PAGE);
      // Pages 1 to 3: page 1 is copied, page 2 is there.
      expect(uffdCopy(fd, memory.address + PAGE, source.address, 3 * PAGE)).toBe(PAGE);
      expect(uffdCopy(fd, memory.address + 2 * PAGE, source.address, PAGE)).toBe(PAGE);
      expect([0, 1, 2].map((page) => memory.bytes[page * PAGE])).toEqual([0, 7, 7]);
    } finally {
      closeFd(fd);
    }
  });
});

describe('unix sockets', () => {
  test('carry bytes with a descriptor, and the credentials of the sender', () => {
    const path = join(directory, 'socket');
    const listener = listenUnix(path);
    using wakeUp = new WakeUp();
    expect(acceptUnix(listener)).toBeUndefined();
    const client = connectUnix(path);
    const connection = acceptUnix(listener);
    if (connection === undefined) throw new Error('no connection');
    try {
      expect(receiveWithFds(connection, 100)).toBeUndefined();
      sendWithFd(client, Buffer.from('[{"size":1}]'), wakeUp.fd);
      const message = receiveWithFds(connection, 100);
      expect(message?.bytes.toString()).toBe('[{"size":1}]');
      expect(message?.fds).toHaveLength(1);
      expect(peerCredentials(connection).pid).toBe(process.pid);
      // The descriptor that arrived is the same eventfd.
      wakeUp.notify();
      const set = new PollSet();
      set.add(message?.fds[0] ?? -1);
      expect(set.wait(1000)).toBe(1);
      for (const fd of message?.fds ?? []) closeFd(fd);
      closeFd(client);
      expect(receiveWithFds(connection, 100)?.bytes).toHaveLength(0);
    } finally {
      closeFd(connection);
      closeFd(listener);
    }
  });

  test('a path that is too long is refused', () => {
    expect(() => listenUnix(`/tmp/${'x'.repeat(120)}`)).toThrow(RangeError);
  });
});
