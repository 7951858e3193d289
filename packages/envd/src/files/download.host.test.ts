import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { appendFile, stat, truncate, writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gunzipSync } from 'node:zlib';
import { errorOf, FilesServer } from '@torpor/testkit/envd';
import { beforeEach, describe, expect, it } from 'vitest';

const files = FilesServer.forEachTest();

describe('downloading', () => {
  const content = 'abcdefghij';
  let path: string;

  beforeEach(async () => {
    path = join(files.directory, 'data.bin');
    await writeFile(path, content);
  });

  const get = (headers: Record<string, string> = {}, method = 'GET') =>
    fetch(files.url(path), { method, headers: { 'accept-encoding': 'identity', ...headers } });

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
  ])('returns %s', async (range, text, shown) => {
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

  describe('with gzip', () => {
    const text = 'a line of a log\n'.repeat(10_000);
    const random = randomBytes(text.length);
    const withTextFirst = Buffer.concat([Buffer.from(text.repeat(4)), random]);

    it.each([
      ['text', 'gzip, deflate, br', 'log.txt', text, 'gzip'],
      ['text', 'x-gzip', 'log.txt', text, 'gzip'],
      ['text', 'gzip;q=0.5, identity', 'log.txt', text, undefined],
      ['text', 'gzip;q=0', 'log.txt', text, undefined],
      ['text', '*', 'log.txt', text, undefined],
      ['text', '*;q=0, gzip', 'log.txt', text, 'gzip'],
      ['text', '', 'log.txt', text, undefined],
      ['random bytes', 'gzip, deflate, br', 'noise', random, undefined],
      ['random bytes', 'gzip, identity;q=0', 'noise', random, 'gzip'],
      ['a compressed type', 'gzip', 'data.zip', text, undefined],
      ['a compressed type', 'gzip', 'LIB.WHL', text, undefined],
      ['a compressed type', 'gzip, *;q=0', 'photo.png', text, 'gzip'],
      ['random bytes behind text', 'gzip', 'data.tar', withTextFirst, 'gzip'],
      ['too little to shrink', 'gzip', 'tiny', 'abc', undefined],
      ['nothing', 'gzip', 'empty', '', undefined],
      ['nothing', 'gzip, identity;q=0', 'empty', '', 'gzip'],
    ])('sends %s for "%s" in the best encoding', async (_, accept, name, bytes, expected) => {
      const file = join(files.directory, name);
      await writeFile(file, bytes);
      const response = await rawGet(file, { 'accept-encoding': accept });
      const plain = Buffer.from(bytes);
      const packed = response.headers['content-encoding'] === 'gzip';
      expect([response.status, response.headers['content-encoding']]).toEqual([200, expected]);
      expect((packed ? gunzipSync(response.body) : response.body).equals(plain)).toBe(true);
      expect(response.headers).toMatchObject({
        vary: 'Accept-Encoding',
        etag: expect.stringMatching(packed ? /^W\/"/ : /^"/),
        ...(packed ? {} : { 'content-length': String(plain.length), 'accept-ranges': 'bytes' }),
      });
      const head = await rawGet(file, { 'accept-encoding': accept }, 'HEAD');
      const { date: _now, 'transfer-encoding': _framing, ...described } = response.headers;
      expect(head.headers).toMatchObject(described);
    });

    it('applies ranges and conditions to the uncompressed bytes, or refuses', async () => {
      await writeFile(path, text);
      const range = await rawGet(path, { 'accept-encoding': 'gzip', range: 'bytes=2-5' });
      expect([range.status, range.body.toString()]).toEqual([206, 'line']);
      const etag = range.headers.etag as string;
      const known = await rawGet(path, { 'accept-encoding': 'gzip', 'if-none-match': `W/${etag}` });
      expect(known.status).toBe(304);
      const packedRange = { 'accept-encoding': 'gzip, identity;q=0', range: 'bytes=2-5' };
      expect((await rawGet(path, packedRange)).status).toBe(406);
      const neither = await rawGet(path, { 'accept-encoding': 'br, identity;q=0' });
      expect([neither.status, JSON.parse(neither.body.toString()).code]).toEqual([406, 406]);
    });
  });

  it('sends files of proc, whose size is 0, and empty files', async () => {
    const status = await fetch(files.url('/proc/self/status'), {
      headers: { 'accept-encoding': '*' },
    });
    expect(await status.text()).toContain('Name:');
    await writeFile(path, '');
    const empty = await get();
    expect([empty.headers.get('content-length'), await empty.text()]).toEqual(['0', '']);
  });

  it.each(['identity', 'gzip, identity;q=0'])(
    'closes the connection when the file shrinks during the download (%s)',
    async (encoding) => {
      await writeFile(path, randomBytes(50_000_000));
      const response = await get({ 'accept-encoding': encoding });
      const reader = (response.body ?? new ReadableStream()).getReader();
      await reader.read();
      await truncate(path, 10);
      const drain = (async () => {
        for (;;) if ((await reader.read()).done) return;
      })();
      await expect(drain).rejects.toThrow();
    },
  );

  it.each(['identity', 'gzip, identity;q=0'])(
    'sends the content of the file when the download began, even if it grows (%s)',
    async (encoding) => {
      const bytes = randomBytes(20_000_000);
      await writeFile(path, bytes);
      const response = await get({ 'accept-encoding': encoding });
      await appendFile(path, randomBytes(1_000_000));
      expect(Buffer.from(await response.arrayBuffer()).equals(bytes)).toBe(true);
    },
  );

  it('distinguishes missing files, directories, devices and unknown users', async () => {
    const missing = await fetch(files.url(join(files.directory, 'none')));
    expect((await errorOf(missing)).message).toBe(
      `path '${join(files.directory, 'none')}' does not exist`,
    );
    expect(missing.status).toBe(404);
    expect((await fetch(files.url(files.directory))).status).toBe(400);
    expect((await fetch(files.url('/dev/zero'))).status).toBe(400);
    expect((await fetch(files.url(path, { username: 'mallory' }))).status).toBe(401);
    expect((await fetch(files.url(path), { method: 'DELETE' })).status).toBe(405);
    expect((await fetch(`${files.base}/files/other`)).status).toBe(404);
  });

  it('streams many megabytes both ways unchanged', async () => {
    const bytes = randomBytes(30_000_000);
    await writeFile(join(files.directory, 'source'), bytes);
    const stream = Readable.toWeb(createReadStream(join(files.directory, 'source')));
    expect((await files.put(path, stream as unknown as ReadableStream)).status).toBe(200);
    const hash = createHash('sha256');
    for await (const chunk of (await get()).body ?? []) hash.update(chunk);
    expect(hash.digest('hex')).toBe(createHash('sha256').update(bytes).digest('hex'));
  });
});

interface RawResponse {
  status: number | undefined;
  headers: NodeJS.Dict<string | string[]>;
  body: Buffer;
}

/** Without fetch, which unpacks and which sets headers of its own. */
function rawGet(
  path: string,
  headers: Record<string, string>,
  method = 'GET',
): Promise<RawResponse> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(files.url(path), { headers, method }, (response) => {
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
