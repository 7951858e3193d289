import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errorOf, FilesServer } from '@torpor/testkit/envd';
import { describe, expect, it } from 'vitest';

const files = FilesServer.forEachTest();

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
    fetch(`${files.base}/files${query}`, { method: 'POST', body, headers });

  const postRaw = (parameter: string | Buffer) =>
    fetch(`${files.base}/files`, {
      method: 'POST',
      headers: { 'content-type': 'multipart/form-data; boundary="--X Y"' },
      body: Buffer.concat([
        Buffer.from('----X Y\r\nContent-Disposition: form-data; name="file"; '),
        Buffer.from(parameter as string),
        Buffer.from('\r\nContent-Type: text/plain\r\n\r\ncontent\r\n----X Y--\r\n'),
      ]),
    });

  it('stores each part under its own name, with any characters', async () => {
    const names = [
      'a',
      'sub/b',
      'ä ö/日本語 🎉.txt',
      '100%22.txt',
      'a%0Ab',
      'per%cent%',
      'b\\c\\',
      "it's;a=b",
    ];
    const data = form(
      ...names.map((name): [string, string] => [join(files.directory, name), name]),
    );
    data.append('other', 'ignored');
    const response = await post('', data);
    expect(response.status).toBe(200);
    const stored = (await response.json()) as { path: string }[];
    expect(stored.map((file) => file.path)).toEqual(
      names.map((name) => join(files.directory, name)),
    );
    for (const name of names)
      expect(await readFile(join(files.directory, name), 'utf8')).toBe(name);
  });

  it.each([
    // As these clients send the name after the arrow; a %-escape cannot be distinguished from a
    // % in a name.
    ['fetch, curl: a"b', 'filename="a%22b"', 'a%22b'],
    ['fetch, curl: 100%22.txt', 'filename="100%22.txt"', '100%22.txt'],
    ['fetch, curl: a\\b', 'filename="a\\b"', 'a\\b'],
    ['fetch, curl: a\\', 'filename="a\\"', 'a\\'],
    ['fetch, curl: a\\\\b\\c', 'filename="a\\\\b\\c"', 'a\\\\b\\c'],
    ['httpx: a\\b', 'filename="a\\\\b"', 'a\\b'],
    ['httpx, a control character', 'filename="a%07b"', 'a%07b'],
    ['Go, curl --form-escape: a"b', 'filename="a\\"b"', 'a"b'],
    ['Go, curl --form-escape: \\"', 'filename="\\\\\\""', '\\"'],
    ['Go, curl --form-escape: a";b', 'filename="a\\";b"', 'a";b'],
    ['RFC 5987', "filename*=UTF-8''a%22%0A%25%F0%9F%8E%89", 'a"\n%🎉'],
    ['RFC 5987 beside a plain name', "filename=\"x\"; filename*=utf-8'en'it's", "it's"],
    ['a token', 'filename=plain.txt', 'plain.txt'],
    ['in upper case, with blanks', ' FILENAME = "a b" ', 'a b'],
    ['raw UTF-8', 'filename="日本語 🎉"', '日本語 🎉'],
  ])('decodes the name as its sender encoded it (%s)', async (_client, parameter, name) => {
    const sent = await postRaw(parameter);
    expect(await sent.json()).toMatchObject([
      { name, path: join(files.guest.directory, 'root', name) },
    ]);
  });

  it.each([
    ['a name that is not UTF-8', Buffer.from('filename="a\xffb"', 'latin1')],
    ['a raw line break in a name', 'filename="a\nb"'],
    ['another charset', "filename*=iso-8859-1''a%E4"],
  ])('refuses %s instead of storing it under another name', async (_what, parameter) => {
    const response = await postRaw(parameter);
    expect(response.status).toBe(400);
    expect((await errorOf(response)).message).toContain('error parsing multipart form');
  });

  it('takes the path of the query for a part with or without a name', async () => {
    for (const name of ['ignored', undefined]) {
      const response = await post('?path=hello.txt&username=alice', form([name, 'hello']));
      const path = join(files.guest.home, 'hello.txt');
      expect(await response.json()).toEqual([{ name: 'hello.txt', path, type: 'file' }]);
      expect(await readFile(path, 'utf8')).toBe('hello');
    }
  });

  it('stores large parts next to small ones', async () => {
    const large = 'x'.repeat(3_000_000);
    const names = ['s1', 'l1', 's2', 'l2', 's3'].map((name) => join(files.directory, name));
    const contents = ['a', large, '', `${large}y`, 'b'];
    const data = form(...names.map((name, at): [string, string] => [name, contents[at] ?? '']));
    expect((await post('', data)).status).toBe(200);
    for (const [at, name] of names.entries())
      expect((await readFile(name, 'utf8')) === contents[at]).toBe(true);
  });

  it('refuses the same path twice, a part without any path, and a truncated form', async () => {
    const path = join(files.directory, 'twice');
    const twice = await post('', form([path, 'first'], [path, 'second']));
    expect((await errorOf(twice)).message).toContain('multiple files to the same path');
    expect(await readFile(path, 'utf8')).toBe('first');
    expect((await post('', form([undefined, 'x']))).status).toBe(400);
    const torn = await fetch(`${files.base}/files`, {
      method: 'POST',
      headers: { 'content-type': 'multipart/form-data; boundary=XX' },
      body: `--XX\r\nContent-Disposition: form-data; name="file"; filename="${files.directory}/torn"\r\n\r\nabc`,
    });
    expect(torn.status).toBe(400);
    const boundless = await fetch(`${files.base}/files`, {
      method: 'POST',
      headers: { 'content-type': 'multipart/form-data' },
      body: 'x',
    });
    expect(boundless.status).toBe(400);
    expect(await readdir(files.directory)).toEqual(['twice']);
  });

  it('responds although the client is still sending', async () => {
    const data = form(
      [files.directory, 'a directory'],
      [join(files.directory, 'big'), 'x'.repeat(20_000_000)],
    );
    expect((await post('', data)).status).toBe(400);
    expect(await readdir(files.directory)).toEqual([]);
  });
});
