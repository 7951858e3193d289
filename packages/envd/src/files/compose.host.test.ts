import { link, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FilesServer, TEST_USER } from '@torpor/testkit/envd';
import { describe, expect, it } from 'vitest';

const files = FilesServer.forEachTest();

describe('composing', () => {
  const compose = (body: unknown) =>
    fetch(`${files.base}/files/compose`, { method: 'POST', body: JSON.stringify(body) });

  it('joins the parts in order, for the user, and removes them', async () => {
    const parts = ['1', '2', '3'].map((name) => join(files.directory, name));
    for (const part of parts) await writeFile(part, part.slice(-1).repeat(700_000));
    const destination = join(files.directory, 'out/whole');
    const response = await compose({ source_paths: parts, destination, username: 'alice' });
    expect(await response.json()).toEqual({ name: 'whole', path: destination, type: 'file' });
    const expected = ['1', '2', '3'].map((digit) => digit.repeat(700_000)).join('');
    expect((await readFile(destination, 'utf8')) === expected).toBe(true);
    expect((await stat(destination)).uid).toBe(TEST_USER.uid);
    expect(await readdir(files.directory)).toEqual(['out']);
  });

  it('refuses bad requests and keeps the parts', async () => {
    const part = join(files.directory, 'part');
    await writeFile(part, 'x');
    await link(part, join(files.directory, 'same'));
    const destination = join(files.directory, 'whole');
    const status = async (body: unknown) => (await compose(body)).status;
    expect(await status({ source_paths: [], destination })).toBe(400);
    expect(await status({ source_paths: [part] })).toBe(400);
    expect(await status({ source_paths: [part], destination, extra: 1 })).toBe(400);
    expect(await status({ source_paths: [part], destination: part })).toBe(400);
    expect(await status({ source_paths: [part], destination: join(files.directory, 'same') })).toBe(
      400,
    );
    expect(await status({ source_paths: [files.directory], destination })).toBe(400);
    expect(await status({ source_paths: [part, '/none'], destination })).toBe(404);
    expect(await status({ source_paths: [part], destination, username: 'mallory' })).toBe(401);
    expect((await fetch(`${files.base}/files/compose`, { method: 'POST', body: '{' })).status).toBe(
      400,
    );
    expect((await readdir(files.directory)).toSorted()).toEqual(['part', 'same']);
  });
});
