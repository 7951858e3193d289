import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SecretBox } from './secret-box.ts';

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-secret-'));
});
afterAll(() => rm(directory, { recursive: true }));

const box = new SecretBox(randomBytes(32));

test('what is sealed is opened again, and is never the same twice', () => {
  for (const text of ['', 'whsec_abc', 'é'.repeat(1000)]) {
    const sealed = box.seal('webhook', text);
    expect(box.open('webhook', sealed)).toBe(text);
    expect(box.seal('webhook', text)).not.toBe(sealed);
    if (text !== '') expect(sealed).not.toContain(text);
  }
});

test('another purpose, another key, and a changed byte open nothing', () => {
  const sealed = box.seal('webhook', 'secret');
  const changed = `${sealed.slice(0, -2)}${sealed.endsWith('AA') ? 'BB' : 'AA'}`;
  const attempts = [
    () => box.open('authority', sealed),
    () => new SecretBox(randomBytes(32)).open('webhook', sealed),
    () => box.open('webhook', changed),
    () => box.open('webhook', sealed.replace('v1', 'v2')),
    () => box.open('webhook', 'v1.'),
  ];
  for (const attempt of attempts) expect(attempt).toThrow(/cannot be decrypted/);
});

test('the key of a data directory is made once, and only its owner can read it', async () => {
  const sealed = (await SecretBox.open(directory, undefined)).seal('webhook', 'secret');
  expect((await SecretBox.open(directory, undefined)).open('webhook', sealed)).toBe('secret');
  const path = join(directory, 'secret.key');
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  const key = (await readFile(path, 'utf8')).trim();
  expect((await SecretBox.open('/nowhere', key)).open('webhook', sealed)).toBe('secret');
});

test.each(['', 'short', 'A'.repeat(44), `${'A'.repeat(42)}==`])('%j is no key', async (text) => {
  await expect(SecretBox.open(directory, text)).rejects.toMatchObject({ code: 'host_setup' });
  const other = await mkdtemp(join(directory, 'other-'));
  await writeFile(join(other, 'secret.key'), text);
  await expect(SecretBox.open(other, undefined)).rejects.toMatchObject({ code: 'host_setup' });
});
