import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Harness, startHarness } from '../../packages/control-plane/src/testing/harness.ts';
import { cli } from '../support/cli.ts';

const resources = new AsyncDisposableStack();
let harness: Harness;
let directory: string;
let id: string;

beforeAll(async () => {
  harness = resources.use(await startHarness());
  directory = await mkdtemp(join(tmpdir(), 'torpor-cp-'));
  resources.defer(() => rm(directory, { recursive: true }));
  id = (await harness.create()).id;
});
afterAll(() => resources.disposeAsync());

function cp(source: string, destination: string, ...options: string[]) {
  const env = { TORPOR_DATA_DIR: harness.dataDir };
  return cli(['cp', ...options, source, destination], { env });
}

test('a file goes in and comes out byte for byte', async () => {
  const original = join(directory, 'original');
  const copy = join(directory, 'copy');
  await writeFile(original, randomBytes(3 * 1024 * 1024 + 7));
  expect(await cp(original, `${id}:/data`)).toMatchObject({ exitCode: 0, stderr: '', stdout: '' });
  const result = await cp(`${id}:/data`, copy, '--json');
  expect(JSON.parse(result.stdout)).toEqual({
    from: '/data',
    to: copy,
    bytes: 3 * 1024 * 1024 + 7,
  });
  expect((await readFile(copy)).equals(await readFile(original))).toBe(true);
});

test('an empty file is a file', async () => {
  const empty = join(directory, 'empty');
  await writeFile(empty, '');
  expect((await cp(empty, `${id}:/empty`)).exitCode).toBe(0);
  expect((await cp(`${id}:/empty`, join(directory, 'empty-copy'))).exitCode).toBe(0);
  expect(await readFile(join(directory, 'empty-copy'), 'utf8')).toBe('');
});

test('a directory as destination receives the file under its name', async () => {
  const local = join(directory, 'named');
  await writeFile(local, 'x');
  await mkdir(join(harness.agent.root, id, 'into'));
  expect((await cp(local, `${id}:/into`)).exitCode).toBe(0);
  const back = join(directory, 'back');
  await mkdir(back);
  expect((await cp(`${id}:/into/named`, back)).exitCode).toBe(0);
  expect(await readdir(back)).toEqual(['named']);
});

test('what does not exist is 3, on either side, and nothing is left of the attempt', async () => {
  const before = await readdir(directory);
  expect((await cp(`${id}:/missing`, join(directory, 'x'))).exitCode).toBe(3);
  expect((await cp(join(directory, 'missing'), `${id}:/x`)).exitCode).toBe(3);
  expect((await cp(`${id}:/empty`, join(directory, 'no/such/directory'))).exitCode).toBe(3);
  expect(await readdir(directory)).toEqual(before);
});

test('nonsense is 2', async () => {
  expect((await cp('a', 'b')).exitCode).toBe(2);
  expect((await cp(`${id}:/a`, `${id}:/b`)).exitCode).toBe(2);
  expect((await cp('/dev/null', `${id}:/b`)).exitCode).toBe(2);
});
