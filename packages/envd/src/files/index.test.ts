import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
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
  truncate,
  writeFile,
} from 'node:fs/promises';
import { createServer, request as httpRequest, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gunzipSync, gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readMetadata } from '../filesystem/metadata.ts';
import { TEST_USER, type TestGuest, testGuest } from '../filesystem/test-guest.ts';
import { handleFiles, signatureOf } from './index.ts';

let guest: TestGuest;
let server: Server;
let base: string;
let directory: string;

beforeEach(async () => {
  guest = await testGuest();
  directory = join(guest.directory, 'work');
  await mkdir(directory);
  server = createServer((request, response) => void handleFiles(request, response, guest.context));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await guest[Symbol.asyncDispose]();
});

function url(path: string, query: Record<string, string> = {}): string {
  return `${base}/files?${new URLSearchParams({ path, ...query })}`;
}

function put(
  path: string,
  body: NonNullable<RequestInit['body']>,
  headers: Record<string, string> = {},
  query = {},
) {
  return fetch(url(path, query), {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/octet-stream', ...headers },
    ...(body instanceof ReadableStream ? { duplex: 'half' } : {}),
  } as RequestInit);
}

async function errorOf(response: Response): Promise<{ code: number; message: string }> {
  const body = (await response.json()) as { code: number; message: string };
  expect(body.code).toBe(response.status);
  return body;
}

describe('uploading a raw body', () => {
  it('makes the file and its parents for the user', async () => {
    const path = join(directory, 'a/b/file');
    const response = await put(path, 'hello', {}, { username: 'alice' });
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual([{ name: 'file', path, type: 'file' }]);
    expect(await readFile(path, 'utf8')).toBe('hello');
    for (const made of [path, join(directory, 'a'), join(directory, 'a/b')]) {
      expect((await stat(made)).uid).toBe(TEST_USER.uid);
    }
    expect((await stat(path)).mode & 0o7777).toBe(0o644);
    expect((await stat(directory)).uid).toBe(0);
  });

  it('resolves relative paths in the home of the user', async () => {
    const response = await put('notes/x', 'hi', {}, { username: 'alice' });
    expect(await response.json()).toMatchObject([{ path: join(guest.home, 'notes/x') }]);
  });

  it.each([0, 1, 1024 * 1024, 1024 * 1024 + 1, 5_000_000])(
    'keeps %d bytes as they are',
    async (size) => {
      const bytes = randomBytes(size);
      const path = join(directory, 'file');
      for (const round of ['new', 'existing']) {
        expect([round, (await put(path, bytes)).status]).toEqual([round, 200]);
        expect(Buffer.compare(await readFile(path), bytes)).toBe(0);
      }
      expect(await readdir(directory)).toEqual(['file']);
    },
  );

  it('overwrites the same file: links, mode and descriptors stay', async () => {
    const path = join(directory, 'file');
    await writeFile(path, 'a longer old content');
    await chmod(path, 0o600);
    await chown(path, 7, 7);
    await link(path, join(directory, 'hard'));
    await symlink('file', join(directory, 'soft'));
    const before = await stat(path);
    expect((await put(join(directory, 'soft'), 'new', {}, { username: 'alice' })).status).toBe(200);
    const after = await stat(path);
    expect([after.ino, after.mode, after.nlink]).toEqual([before.ino, before.mode, 2]);
    expect([after.uid, after.gid]).toEqual([TEST_USER.uid, TEST_USER.gid]);
    expect(await readFile(join(directory, 'hard'), 'utf8')).toBe('new');
    expect((await lstat(join(directory, 'soft'))).isSymbolicLink()).toBe(true);
  });

  it('makes the target of a link that leads nowhere', async () => {
    await mkdir(join(directory, 'sub'));
    await symlink('sub/target', join(directory, 'soft'));
    expect((await put(join(directory, 'soft'), 'x')).status).toBe(200);
    expect(await readFile(join(directory, 'sub/target'), 'utf8')).toBe('x');
  });

  it('unpacks gzip, and refuses what is not gzip or another encoding', async () => {
    const path = join(directory, 'file');
    const gzip = { 'content-encoding': 'gzip' };
    const text = 'some text '.repeat(500_000);
    expect((await put(path, gzipSync(text), gzip)).status).toBe(200);
    expect(await readFile(path, 'utf8')).toBe(text);
    for (const [body, headers] of [
      ['plain', gzip],
      [gzipSync(text).subarray(0, 100), gzip],
      ['plain', { 'content-encoding': 'br' }],
    ] as const) {
      expect((await put(path, body, headers)).status).toBe(400);
    }
    expect(await readFile(path, 'utf8')).toBe(text);
  });

  it('refuses directories, devices, a missing path and an unknown user', async () => {
    await writeFile(join(directory, 'file'), '');
    for (const path of [
      directory,
      `${directory}/new/`,
      join(directory, 'file/x'),
      '/dev/null',
      '~x/y',
    ])
      expect([path, (await put(path, 'x')).status]).toEqual([path, 400]);
    expect((await put('x', 'x', {}, { username: 'mallory' })).status).toBe(401);
    const none = await fetch(`${base}/files`, {
      method: 'POST',
      headers: { 'content-type': 'application/octet-stream' },
      body: 'x',
    });
    expect((await errorOf(none)).message).toContain('path query parameter is required');
    const text = await fetch(url('x'), { method: 'POST', body: 'x' });
    expect((await errorOf(text)).message).toContain('unsupported content type');
    expect(await readdir(directory)).toEqual(['file']);
  });

  it('writes into a file of proc', async () => {
    const comm = `/proc/${process.pid}/comm`;
    const before = await readFile(comm, 'utf8');
    try {
      expect((await put(comm, 'torpor-probe')).status).toBe(200);
      expect(await readFile(comm, 'utf8')).toBe('torpor-probe\n');
    } finally {
      await writeFile(comm, before.trim());
    }
  });

  it('leaves no trace of an upload that breaks off', async () => {
    const old = join(directory, 'old');
    await writeFile(old, 'precious');
    for (const path of [old, join(directory, 'p/q/new')]) {
      for (const size of [1000, 3_000_000]) {
        await breakOff(path, size);
        expect(await readFile(old, 'utf8')).toBe('precious');
        await until(async () => (await readdir(directory)).join() === 'old');
      }
    }
  });

  it('survives the failure of another upload that had made its parents', async () => {
    const first = partialUpload(join(directory, 'p/first'));
    await until(async () => (await readdir(directory)).join() === 'p');
    const second = partialUpload(join(directory, 'p/second'), 2_000_000);
    await until(async () => await holdsNamelessFile(join(directory, 'p')));
    first.breakOff();
    await until(async () => (await readdir(directory)).length === 0);
    expect(await second.finish()).toBe(200);
    expect(await readdir(join(directory, 'p'))).toEqual(['second']);
  });

  it('does not mix uploads to one path', async () => {
    const path = join(directory, 'file');
    const bodies = Array.from({ length: 6 }, (_, index) => Buffer.alloc(1_500_000 + index, index));
    await Promise.all(bodies.map((body) => put(path, body)));
    const stored = await readFile(path);
    expect(bodies.some((body) => body.equals(stored))).toBe(true);
  });
});

/** Sends part of a body that is announced longer, waits until it is sent, and hangs up. */
async function breakOff(path: string, size: number): Promise<void> {
  const upload = partialUpload(path, size);
  await upload.begun;
  upload.breakOff();
}

/** An upload of which one half is sent, and the other when it is told to. */
function partialUpload(path: string, size = 1000) {
  const request = httpRequest(url(path), {
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

describe('a full disk', () => {
  let mount: string;

  beforeEach(async () => {
    mount = join(directory, 'small');
    await mkdir(mount);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m,mode=755', 'tmpfs', mount]);
  });

  afterEach(() => {
    execFileSync('umount', [mount]);
  });

  it('answers 507 and leaves nothing half-written, new or old', async () => {
    await writeFile(join(mount, 'old'), 'precious');
    for (const name of ['new', 'p/new', 'old']) {
      const response = await put(join(mount, name), Buffer.alloc(4_000_000, 1));
      expect([name, response.status]).toEqual([name, 507]);
      expect((await errorOf(response)).message).toContain('not enough disk space');
    }
    expect(await readdir(mount)).toEqual(['old']);
    expect(await readFile(join(mount, 'old'), 'utf8')).toBe('precious');
    expect((await put(join(mount, 'new'), Buffer.alloc(1_000_000))).status).toBe(200);
  });

  it('keeps an old file that a small new content has no room for', async () => {
    await writeFile(join(mount, 'old'), 'precious');
    await writeFile(join(mount, 'filler'), Buffer.alloc(1_800_000));
    expect((await put(join(mount, 'old'), Buffer.alloc(900_000, 1))).status).toBe(507);
    expect((await put(join(mount, 'fresh'), Buffer.alloc(900_000, 1))).status).toBe(507);
    expect(await readFile(join(mount, 'old'), 'utf8')).toBe('precious');
    expect((await readdir(mount)).toSorted()).toEqual(['filler', 'old']);
  });
});

describe('uploading a form', () => {
  const form = (...files: [name: string | undefined, content: string][]) => {
    const data = new FormData();
    for (const [name, content] of files) {
      if (name === undefined) data.append('file', content);
      else data.append('file', new Blob([content]), name);
    }
    return data;
  };
  const post = (query: string, body: FormData, headers: Record<string, string> = {}) =>
    fetch(`${base}/files${query}`, { method: 'POST', body, headers });

  it('stores each part under its own name, whatever characters it has', async () => {
    const names = ['a', 'sub/b', 'ä ö/日本語 🎉.txt', 'quo"te', 'per%cent', "it's;a=b"];
    const data = form(...names.map((name): [string, string] => [join(directory, name), name]));
    data.append('other', 'passed over');
    const response = await post('', data);
    expect(response.status).toBe(200);
    const stored = (await response.json()) as { path: string }[];
    expect(stored.map((file) => file.path)).toEqual(names.map((name) => join(directory, name)));
    for (const name of names) expect(await readFile(join(directory, name), 'utf8')).toBe(name);
  });

  it('takes the path of the query for a part with or without a name', async () => {
    for (const name of ['ignored', undefined]) {
      const response = await post('?path=hello.txt&username=alice', form([name, 'hello']));
      const path = join(guest.home, 'hello.txt');
      expect(await response.json()).toEqual([{ name: 'hello.txt', path, type: 'file' }]);
      expect(await readFile(path, 'utf8')).toBe('hello');
    }
  });

  it('stores large parts next to small ones', async () => {
    const large = 'x'.repeat(3_000_000);
    const names = ['s1', 'l1', 's2', 'l2', 's3'].map((name) => join(directory, name));
    const contents = ['a', large, '', `${large}y`, 'b'];
    const data = form(...names.map((name, at): [string, string] => [name, contents[at] ?? '']));
    expect((await post('', data)).status).toBe(200);
    for (const [at, name] of names.entries())
      expect((await readFile(name, 'utf8')) === contents[at]).toBe(true);
  });

  it('refuses the same path twice, a part without any path, and a torn form', async () => {
    const path = join(directory, 'twice');
    const twice = await post('', form([path, 'first'], [path, 'second']));
    expect((await errorOf(twice)).message).toContain('multiple files to the same path');
    expect(await readFile(path, 'utf8')).toBe('first');
    expect((await post('', form([undefined, 'x']))).status).toBe(400);
    const torn = await fetch(`${base}/files`, {
      method: 'POST',
      headers: { 'content-type': 'multipart/form-data; boundary=XX' },
      body: `--XX\r\nContent-Disposition: form-data; name="file"; filename="${directory}/torn"\r\n\r\nabc`,
    });
    expect(torn.status).toBe(400);
    const boundless = await fetch(`${base}/files`, {
      method: 'POST',
      headers: { 'content-type': 'multipart/form-data' },
      body: 'x',
    });
    expect(boundless.status).toBe(400);
    expect(await readdir(directory)).toEqual(['twice']);
  });

  it('answers although the client is still sending', async () => {
    const data = form([directory, 'a directory'], [join(directory, 'big'), 'x'.repeat(20_000_000)]);
    expect((await post('', data)).status).toBe(400);
    expect(await readdir(directory)).toEqual([]);
  });
});

describe('metadata', () => {
  it('is kept with the file, told in the answer, and replaced by the next upload', async () => {
    const path = join(directory, 'file');
    const first = await put(path, 'x', { 'X-Metadata-Author': 'ann', 'x-metadata-empty': '' });
    expect(await first.json()).toMatchObject([{ metadata: { author: 'ann', empty: '' } }]);
    expect(readMetadata(path)).toEqual({ author: 'ann', empty: '' });
    await put(path, randomBytes(2_000_000), { 'X-Metadata-Purpose': 'test' });
    expect(readMetadata(path)).toEqual({ purpose: 'test' });
    await put(path, 'x');
    expect(readMetadata(path)).toEqual({});
    await put(join(directory, 'large'), randomBytes(2_000_000), { 'X-Metadata-A': 'b' });
    expect(readMetadata(join(directory, 'large'))).toEqual({ a: 'b' });
  });

  it('is refused where the file system cannot keep it, and the file with it', async () => {
    execFileSync('mount', ['-t', 'ramfs', 'ramfs', directory]);
    try {
      const refused = await put(join(directory, 'file'), 'x', { 'x-metadata-a': 'b' });
      expect((await errorOf(refused)).message).toContain('cannot keep metadata');
      expect(await readdir(directory)).toEqual([]);
      expect((await put(join(directory, 'file'), 'x')).status).toBe(200);
      expect((await put(join(directory, 'large'), randomBytes(2_000_000))).status).toBe(200);
      expect((await put(join(directory, 'large'), randomBytes(3_000_000))).status).toBe(200);
      expect((await readdir(directory)).toSorted()).toEqual(['file', 'large']);
    } finally {
      execFileSync('umount', [directory]);
    }
  });

  it('is refused when it is too long or not printable ASCII', async () => {
    const path = join(directory, 'file');
    for (const headers of [
      { 'x-metadata-a': 'x'.repeat(4100) },
      { [`x-metadata-${'k'.repeat(247)}`]: 'x' },
      { 'x-metadata-a': 'caf\u00e9' },
    ])
      expect((await put(path, 'x', headers)).status).toBe(400);
    expect(await readdir(directory)).toEqual([]);
  });
});

describe('downloading', () => {
  const content = 'abcdefghij';
  let path: string;

  beforeEach(async () => {
    path = join(directory, 'data.bin');
    await writeFile(path, content);
  });

  const get = (headers: Record<string, string> = {}, method = 'GET') =>
    fetch(url(path), { method, headers: { 'accept-encoding': 'identity', ...headers } });

  it('sends the bytes with their length, validators and an inline disposition', async () => {
    const response = await get();
    expect(response.status).toBe(200);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-length': '10',
      'content-disposition': 'inline; filename="data.bin"',
      'accept-ranges': 'bytes',
      vary: 'Accept-Encoding',
      'last-modified': new Date((await stat(path)).mtimeMs).toUTCString(),
    });
    expect(await response.text()).toBe(content);
    const head = await get({}, 'HEAD');
    expect([head.headers.get('content-length'), await head.text()]).toEqual(['10', '']);
  });

  it.each([
    ['bytes=0-3', 'abcd', '0-3'],
    ['bytes=8-', 'ij', '8-9'],
    ['bytes=-3', 'hij', '7-9'],
    ['bytes=-99', content, '0-9'],
    ['bytes=5-99', 'fghij', '5-9'],
    ['bytes=0-1, 2-4', 'abcde', '0-4'],
    ['bytes=3-5,99-', 'def', '3-5'],
  ])('answers %s', async (range, text, shown) => {
    const response = await get({ range });
    expect([response.status, await response.text()]).toEqual([206, text]);
    expect(response.headers.get('content-range')).toBe(`bytes ${shown}/10`);
  });

  it.each(['bytes=10-', 'bytes=-0', 'bytes=11-12,13-'])('refuses %s with 416', async (range) => {
    const response = await get({ range });
    expect(response.status).toBe(416);
    expect(response.headers.get('content-range')).toBe('bytes */10');
    await errorOf(response);
  });

  it.each(['lines=1-2', 'bytes=5-2', 'bytes=0-1,5-6', 'bytes=a-b'])(
    'sends all for %s',
    async (range) => {
      const response = await get({ range });
      expect([response.status, await response.text()]).toEqual([200, content]);
    },
  );

  it('honours conditions', async () => {
    const first = await get();
    const etag = first.headers.get('etag') ?? '';
    const modified = first.headers.get('last-modified') ?? '';
    const status = async (headers: Record<string, string>) => (await get(headers)).status;
    expect(await status({ 'if-none-match': etag })).toBe(304);
    expect(await status({ 'if-none-match': '"x", W/"y"' })).toBe(200);
    expect(await status({ 'if-modified-since': modified })).toBe(304);
    expect(await status({ 'if-match': '"x"' })).toBe(412);
    expect(await status({ 'if-match': etag })).toBe(200);
    expect(await status({ 'if-unmodified-since': new Date(0).toUTCString() })).toBe(412);
    expect(await status({ range: 'bytes=0-1', 'if-range': etag })).toBe(206);
    expect(await status({ range: 'bytes=0-1', 'if-range': '"x"' })).toBe(200);
    await writeFile(path, 'another');
    expect(await status({ 'if-none-match': etag })).toBe(200);
  });

  it('packs when asked to, and refuses when it may send nothing', async () => {
    const packed = await rawGet(path, { 'accept-encoding': 'gzip' });
    expect(packed.headers['content-encoding']).toBe('gzip');
    expect(gunzipSync(packed.body).toString()).toBe(content);
    const preferred = await rawGet(path, { 'accept-encoding': 'gzip;q=0.5, identity' });
    expect(preferred.body.toString()).toBe(content);
    const none = await rawGet(path, { 'accept-encoding': 'br, identity;q=0' });
    expect([none.status, JSON.parse(none.body.toString()).code]).toEqual([406, 406]);
    const range = await rawGet(path, { 'accept-encoding': 'gzip', range: 'bytes=0-1' });
    expect([range.status, range.body.toString()]).toEqual([206, 'ab']);
  });

  it('sends files of proc, which claim to be empty, and truly empty ones', async () => {
    const status = await fetch(url('/proc/self/status'), { headers: { 'accept-encoding': '*' } });
    expect(await status.text()).toContain('Name:');
    await writeFile(path, '');
    const empty = await get();
    expect([empty.headers.get('content-length'), await empty.text()]).toEqual(['0', '']);
  });

  it('cuts the connection when the file shrinks under the download', async () => {
    await truncate(path, 50_000_000);
    const response = await get();
    const reader = (response.body ?? new ReadableStream()).getReader();
    await reader.read();
    await truncate(path, 10);
    const drain = (async () => {
      for (;;) if ((await reader.read()).done) return;
    })();
    await expect(drain).rejects.toThrow();
  });

  it('tells missing files, directories, devices and unknown users apart', async () => {
    const missing = await fetch(url(join(directory, 'none')));
    expect((await errorOf(missing)).message).toBe(
      `path '${join(directory, 'none')}' does not exist`,
    );
    expect(missing.status).toBe(404);
    expect((await fetch(url(directory))).status).toBe(400);
    expect((await fetch(url('/dev/zero'))).status).toBe(400);
    expect((await fetch(url(path, { username: 'mallory' }))).status).toBe(401);
    expect((await fetch(url(path), { method: 'DELETE' })).status).toBe(405);
    expect((await fetch(`${base}/files/other`)).status).toBe(404);
  });

  it('streams many megabytes both ways unchanged', async () => {
    const bytes = randomBytes(30_000_000);
    await writeFile(join(directory, 'source'), bytes);
    const stream = Readable.toWeb(createReadStream(join(directory, 'source')));
    expect((await put(path, stream as unknown as ReadableStream)).status).toBe(200);
    const hash = createHash('sha256');
    for await (const chunk of (await get()).body ?? []) hash.update(chunk);
    expect(hash.digest('hex')).toBe(createHash('sha256').update(bytes).digest('hex'));
  });
});

interface RawAnswer {
  status: number | undefined;
  headers: NodeJS.Dict<string | string[]>;
  body: Buffer;
}

/** Without fetch, which unpacks and which sets headers of its own. */
function rawGet(path: string, headers: Record<string, string>): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(url(path), { headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () =>
        resolve({
          status: response.statusCode,
          headers: response.headers,
          body: Buffer.concat(chunks),
        }),
      );
    });
    request.on('error', reject);
    request.end();
  });
}

describe('composing', () => {
  const compose = (body: unknown) =>
    fetch(`${base}/files/compose`, { method: 'POST', body: JSON.stringify(body) });

  it('joins the parts in order, for the user, and removes them', async () => {
    const parts = ['1', '2', '3'].map((name) => join(directory, name));
    for (const part of parts) await writeFile(part, part.slice(-1).repeat(700_000));
    const destination = join(directory, 'out/whole');
    const response = await compose({ source_paths: parts, destination, username: 'alice' });
    expect(await response.json()).toEqual({ name: 'whole', path: destination, type: 'file' });
    const expected = ['1', '2', '3'].map((digit) => digit.repeat(700_000)).join('');
    expect((await readFile(destination, 'utf8')) === expected).toBe(true);
    expect((await stat(destination)).uid).toBe(TEST_USER.uid);
    expect(await readdir(directory)).toEqual(['out']);
  });

  it('refuses bad requests and keeps the parts', async () => {
    const part = join(directory, 'part');
    await writeFile(part, 'x');
    await link(part, join(directory, 'same'));
    const destination = join(directory, 'whole');
    const status = async (body: unknown) => (await compose(body)).status;
    expect(await status({ source_paths: [], destination })).toBe(400);
    expect(await status({ source_paths: [part] })).toBe(400);
    expect(await status({ source_paths: [part], destination, extra: 1 })).toBe(400);
    expect(await status({ source_paths: [part], destination: part })).toBe(400);
    expect(await status({ source_paths: [part], destination: join(directory, 'same') })).toBe(400);
    expect(await status({ source_paths: [directory], destination })).toBe(400);
    expect(await status({ source_paths: [part, '/none'], destination })).toBe(404);
    expect(await status({ source_paths: [part], destination, username: 'mallory' })).toBe(401);
    expect((await fetch(`${base}/files/compose`, { method: 'POST', body: '{' })).status).toBe(400);
    expect((await readdir(directory)).toSorted()).toEqual(['part', 'same']);
  });
});

describe('authorization', () => {
  const token = 'secret-token';

  beforeEach(() => {
    guest.context.accessToken.set(token);
  });

  const signed = (
    path: string,
    operation: 'read' | 'write',
    extra: { username?: string; expiration?: number } = {},
  ) => {
    const username = extra.username ?? '';
    const signature = signatureOf(
      { path, operation, username, expiration: extra.expiration },
      token,
    );
    return url(path, {
      signature,
      ...(extra.username === undefined ? {} : { username }),
      ...(extra.expiration === undefined ? {} : { signature_expiration: `${extra.expiration}` }),
    });
  };
  const now = () => Math.floor(Date.now() / 1000);

  it('lets the token and valid signatures pass', async () => {
    const path = join(directory, 'file');
    expect((await put(path, 'x', { 'x-access-token': token })).status).toBe(200);
    expect((await fetch(signed(path, 'read'))).status).toBe(200);
    expect((await fetch(signed(path, 'read', { expiration: now() + 60 }))).status).toBe(200);
    const body = new FormData();
    body.append('file', 'content');
    const upload = await fetch(signed('hello.txt', 'write', { username: 'alice' }), {
      method: 'POST',
      body,
    });
    expect(await upload.json()).toMatchObject([{ path: join(guest.home, 'hello.txt') }]);
  });

  it('refuses everything else, and writes nothing then', async () => {
    const path = join(directory, 'file');
    const message = async (response: Promise<Response>) => {
      const answer = await response;
      return [answer.status, (await errorOf(answer)).message];
    };
    expect(await message(put(path, 'x'))).toEqual([401, 'missing signature query parameter']);
    expect(await message(put(path, 'x', { 'x-access-token': 'wrong' }))).toEqual([
      401,
      'access token present in header but does not match',
    ]);
    expect(await message(fetch(url(path, { signature: 'v1_x' })))).toEqual([
      401,
      'invalid signature',
    ]);
    expect(await message(fetch(signed(path, 'write')))).toEqual([401, 'invalid signature']);
    const later = signed(path, 'read', { expiration: now() - 5 });
    expect(await message(fetch(later))).toEqual([401, 'signature is already expired']);
    const extended = later.replace(
      /signature_expiration=\d+/,
      `signature_expiration=${now() + 99}`,
    );
    expect(await message(fetch(extended))).toEqual([401, 'invalid signature']);
    expect(await readdir(directory)).toEqual([]);
  });

  it('signs as the SDK does', () => {
    // sha256("a/b:read::secret-token"), base64 without padding.
    const digest = createHash('sha256').update('a/b:read::secret-token').digest('base64');
    expect(signatureOf({ path: 'a/b', operation: 'read', username: '' }, token)).toBe(
      `v1_${digest.slice(0, 43)}`,
    );
  });
});
