import { randomBytes } from 'node:crypto';
import {
  chmod,
  chown,
  link,
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { USER_HEADER } from '@torpor/protocol';
import { errorOf, FilesServer, TEST_USER } from '@torpor/testkit/envd';
import { describe, expect, it } from 'vitest';

const files = FilesServer.forEachTest();

describe('uploading a raw body', () => {
  it('makes the file and its parents for the user', async () => {
    const path = join(files.directory, 'a/b/file');
    const response = await files.put(path, 'hello', {}, { username: 'alice' });
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual([{ name: 'file', path, type: 'file' }]);
    expect(await readFile(path, 'utf8')).toBe('hello');
    for (const made of [path, join(files.directory, 'a'), join(files.directory, 'a/b')]) {
      expect((await stat(made)).uid).toBe(TEST_USER.uid);
    }
    expect((await stat(path)).mode & 0o7777).toBe(0o644);
    expect((await stat(files.directory)).uid).toBe(0);
  });

  it.each([
    ['4242', [4242, 0]],
    ['4242:4343', [4242, 4343]],
    ['alice:0', [TEST_USER.uid, 0]],
  ])('makes the file for the identity %j', async (identity, expected) => {
    const path = join(files.directory, 'file');
    expect((await files.put(path, 'x', { [USER_HEADER]: identity })).status).toBe(200);
    const { uid, gid } = await stat(path);
    expect([uid, gid]).toEqual(expected);
  });

  it('resolves relative paths in the home of the user', async () => {
    const response = await files.put('notes/x', 'hi', {}, { username: 'alice' });
    expect(await response.json()).toMatchObject([{ path: join(files.guest.home, 'notes/x') }]);
  });

  it.each([0, 1, 1024 * 1024, 1024 * 1024 + 1, 5_000_000])(
    'keeps %d bytes as they are',
    async (size) => {
      const bytes = randomBytes(size);
      const path = join(files.directory, 'file');
      for (const round of ['new', 'existing']) {
        expect([round, (await files.put(path, bytes)).status]).toEqual([round, 200]);
        expect(Buffer.compare(await readFile(path), bytes)).toBe(0);
      }
      expect(await readdir(files.directory)).toEqual(['file']);
    },
  );

  it('overwrites the same file: links, mode and descriptors are kept', async () => {
    const path = join(files.directory, 'file');
    await writeFile(path, 'a longer old content');
    await chmod(path, 0o600);
    await chown(path, 7, 7);
    await link(path, join(files.directory, 'hard'));
    await symlink('file', join(files.directory, 'soft'));
    const before = await stat(path);
    expect(
      (await files.put(join(files.directory, 'soft'), 'new', {}, { username: 'alice' })).status,
    ).toBe(200);
    const after = await stat(path);
    expect([after.ino, after.mode, after.nlink]).toEqual([before.ino, before.mode, 2]);
    expect([after.uid, after.gid]).toEqual([TEST_USER.uid, TEST_USER.gid]);
    expect(await readFile(join(files.directory, 'hard'), 'utf8')).toBe('new');
    expect((await lstat(join(files.directory, 'soft'))).isSymbolicLink()).toBe(true);
  });

  it('creates the target of a dangling link', async () => {
    await mkdir(join(files.directory, 'sub'));
    await symlink('sub/target', join(files.directory, 'soft'));
    expect((await files.put(join(files.directory, 'soft'), 'x')).status).toBe(200);
    expect(await readFile(join(files.directory, 'sub/target'), 'utf8')).toBe('x');
  });

  it('unpacks gzip, and refuses what is not gzip or another encoding', async () => {
    const path = join(files.directory, 'file');
    const gzip = { 'content-encoding': 'gzip' };
    const text = 'some text '.repeat(500_000);
    expect((await files.put(path, gzipSync(text), gzip)).status).toBe(200);
    expect(await readFile(path, 'utf8')).toBe(text);
    for (const [body, headers] of [
      ['plain', gzip],
      [gzipSync(text).subarray(0, 100), gzip],
      ['plain', { 'content-encoding': 'br' }],
    ] as const) {
      expect((await files.put(path, body, headers)).status).toBe(400);
    }
    expect(await readFile(path, 'utf8')).toBe(text);
  });

  it('refuses directories, devices, a missing path and an unknown user', async () => {
    await writeFile(join(files.directory, 'file'), '');
    for (const path of [
      files.directory,
      `${files.directory}/new/`,
      join(files.directory, 'file/x'),
      '/dev/null',
      '~x/y',
    ])
      expect([path, (await files.put(path, 'x')).status]).toEqual([path, 400]);
    expect((await files.put('x', 'x', {}, { username: 'mallory' })).status).toBe(401);
    const none = await fetch(`${files.base}/files`, {
      method: 'POST',
      headers: { 'content-type': 'application/octet-stream' },
      body: 'x',
    });
    expect((await errorOf(none)).message).toContain('path query parameter is required');
    const text = await fetch(files.url('x'), { method: 'POST', body: 'x' });
    expect((await errorOf(text)).message).toContain('unsupported content type');
    expect(await readdir(files.directory)).toEqual(['file']);
  });

  it('writes into a file of proc', async () => {
    const comm = `/proc/${process.pid}/comm`;
    const before = await readFile(comm, 'utf8');
    try {
      expect((await files.put(comm, 'torpor-probe')).status).toBe(200);
      expect(await readFile(comm, 'utf8')).toBe('torpor-probe\n');
    } finally {
      await writeFile(comm, before.trim());
    }
  });

  it('leaves no trace of an aborted upload', async () => {
    const old = join(files.directory, 'old');
    await writeFile(old, 'precious');
    for (const path of [old, join(files.directory, 'p/q/new')]) {
      for (const size of [1000, 3_000_000]) {
        await breakOff(path, size);
        expect(await readFile(old, 'utf8')).toBe('precious');
        await until(async () => (await readdir(files.directory)).join() === 'old');
      }
    }
  });

  it('survives the failure of another upload that had made its parents', async () => {
    const first = partialUpload(join(files.directory, 'p/first'));
    await until(async () => (await readdir(files.directory)).join() === 'p');
    const second = partialUpload(join(files.directory, 'p/second'), 2_000_000);
    await until(async () => await holdsNamelessFile(join(files.directory, 'p')));
    first.breakOff();
    await until(async () => (await readdir(files.directory)).length === 0);
    expect(await second.finish()).toBe(200);
    expect(await readdir(join(files.directory, 'p'))).toEqual(['second']);
  });

  it('does not mix uploads to one path', async () => {
    const path = join(files.directory, 'file');
    const bodies = Array.from({ length: 6 }, (_, index) => Buffer.alloc(1_500_000 + index, index));
    await Promise.all(bodies.map((body) => files.put(path, body)));
    const stored = await readFile(path);
    expect(bodies.some((body) => body.equals(stored))).toBe(true);
  });
});

/** Sends part of a body, waits until it is sent, and disconnects. */
async function breakOff(path: string, size: number): Promise<void> {
  const upload = partialUpload(path, size);
  await upload.begun;
  upload.breakOff();
}

/** An upload that sends one half at once, and the other on request. */
function partialUpload(path: string, size = 1000) {
  const request = httpRequest(files.url(path), {
    method: 'POST',
    headers: { 'content-type': 'application/octet-stream', 'content-length': size * 2 },
  });
  const status = new Promise<number | undefined>((resolve) => {
    request.on('error', () => resolve(undefined));
    request.on('response', (response) => {
      response.resume();
      resolve(response.statusCode);
    });
  });
  return {
    begun: new Promise<void>((resolve) => request.write(Buffer.alloc(size), () => resolve())),
    breakOff: () => request.destroy(),
    finish: () => {
      request.end(Buffer.alloc(size));
      return status;
    },
  };
}

/** Whether this process, which is the server too, is receiving a long body for a directory. */
async function holdsNamelessFile(parent: string): Promise<boolean> {
  const fds = await readdir('/proc/self/fd');
  const links = await Promise.all(fds.map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')));
  return links.some((target) => target.startsWith(`${parent}/#`));
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error('the condition did not come true');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
