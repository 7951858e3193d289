import { readdir, realpath } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { DEFAULT_DISK_MIB, instanceTag } from '@torpor/agent/testing';
import { newId, rest, SANDBOX_STATES } from '@torpor/protocol';
import { runTorpor, TorporProcess } from '@torpor/testkit/cli';
import { openDataDirWithBoots } from '@torpor/testkit/guests';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CACHE_DIR, leftovers } from '../agent/agent-under-test.ts';
import { RestClient } from '../support/rest-client.ts';

/*
 * The errors of requests that cannot be fulfilled. They must leave nothing behind: no row, no
 * process, no mount, no file.
 */

const MIB = 1024 * 1024;
const unknownId = newId('sandbox');

const resources = new AsyncDisposableStack();
let dataDir: string;
let instance: string;
let platform: TorporProcess;
let api: RestClient;

beforeAll(async () => {
  const shape = { vcpus: 1, memoryMiB: 256, diskMiB: DEFAULT_DISK_MIB };
  dataDir = resources.use(await openDataDirWithBoots(CACHE_DIR, shape)).path;
  instance = instanceTag(await realpath(dataDir));
  platform = resources.use(await TorporProcess.start(dataDir));
  resources.defer(async () => void (await runTorpor(dataDir, ['rm', '--all', '--yes'])));
  api = await RestClient.open(platform.apiUrl, dataDir);
});
afterAll(() => resources.disposeAsync());

/** What a sandbox, or an attempt to create one, leaves. Slots are created in advance and stay. */
async function traces(): Promise<string[]> {
  const { body } = await api.send('GET', `/v1/sandboxes?state=${SANDBOX_STATES.join(',')}`);
  const rows = rest.sandboxListSchema.parse(body).sandboxes;
  const onHost = await leftovers(instance, dataDir);
  const memory = await readdir(join('/dev/shm', `torpor-${instance}`)).catch(() => []);
  return [
    ...rows.map(({ id, status }) => `row: ${id} ${status}`),
    ...onHost.filter((line) => /^(processes|loopDevices|directories):/.test(line)),
    ...(await readdir(join(dataDir, 'sandboxes'))).map((name) => `sandbox: ${name}`),
    ...memory.map((name) => `memory: ${name}`),
  ].toSorted();
}

describe('a sandbox that cannot be created', () => {
  let before: string[];
  beforeAll(async () => {
    before = await traces();
    expect(before.filter((trace) => !/^(processes|directories):/.test(trace))).toEqual([]);
  });

  test.each<[string, unknown, number, string, RegExp]>([
    ['an unknown template', { template: 'nowhere' }, 404, 'not_found', /template "nowhere".*base/],
    ['an unknown field', { colour: 'red' }, 400, 'invalid_request', /colour is not a known field/],
    ['no vCPU', { vcpus: 0 }, 400, 'invalid_request', /vcpus must be 1 to \d+ on this host/],
    [
      '10,000 vCPUs',
      { vcpus: 10_000 },
      400,
      'invalid_request',
      /vcpus must be 1 to \d+ on this host/,
    ],
    [
      'a negative number',
      { vcpus: -1 },
      400,
      'invalid_request',
      /vcpus must be 1 to \d+ on this host/,
    ],
    ['half a vCPU', { vcpus: 0.5 }, 400, 'invalid_request', /vcpus/],
    [
      'hardly any memory',
      { memory_mb: 1 },
      400,
      'invalid_request',
      /memory_mb must be 128 to \d+ MiB on this host/,
    ],
    [
      'more memory than the host has',
      { memory_mb: Math.ceil(totalmem() / MIB) + 1 },
      400,
      'capacity_exceeded',
      /at most \d+ MiB of memory; \d+ MiB were requested/,
    ],
    [
      'a number that is too large',
      { memory_mb: Number.MAX_SAFE_INTEGER },
      400,
      'capacity_exceeded',
      /at most \d+ MiB of memory; 9007199254740991 MiB were requested/,
    ],
    ['a path for a template', { template: '../../etc' }, 400, 'invalid_request', /template/],
    ['malformed JSON', '{"vcpus": 1', 400, 'invalid_request', /not valid JSON/],
    ['a list', [], 400, 'invalid_request', /must be an object/],
    [
      'a body over the limit',
      { metadata: { a: 'x'.repeat(rest.MAX_JSON_BODY_BYTES) } },
      413,
      'too_large',
      /larger than 4194304 bytes/,
    ],
  ])('%s', async (_what, body, status, code, sentence) => {
    const error = await api.refused('POST', '/v1/sandboxes', body);
    expect(error).toMatchObject({ status, code });
    expectSentence(error.message, sentence);
  });

  test('leaves nothing behind', async () => {
    expect(await traces()).toEqual(before);
    expect((await runTorpor(dataDir, ['ls', '-q'])).stdout).toBe('');
  });
});

describe('a sandbox that does not exist', () => {
  const path = `/v1/sandboxes/${unknownId}`;

  test.each<[string, string, unknown]>([
    ['GET', path, undefined],
    ['DELETE', path, undefined],
    ['POST', `${path}/exec`, { cmd: 'true' }],
    ['GET', `${path}/processes`, undefined],
    ['GET', `${path}/files?path=/etc/passwd`, undefined],
    ['PUT', `${path}/files?path=/tmp/new`, 'content'],
    ['GET', '/v1/sandboxes/..%2f..%2fetc', undefined],
  ])('%s %s', async (method, target, body) => {
    const error = await api.refused(method, target, body);
    expect(error).toMatchObject({ status: 404, code: 'not_found' });
    expectSentence(error.message, /sandbox/);
  });
});

describe('a request to a sandbox that it cannot fulfil', () => {
  let id: string;
  beforeAll(async () => {
    const { status, body } = await api.send('POST', '/v1/sandboxes', { memory_mb: 256 });
    expect(status).toBe(201);
    id = rest.sandboxSchema.parse(body).id;
  });

  test.each<[string, unknown, number, string, RegExp]>([
    ['a missing program', { cmd: 'no-such-program' }, 400, 'program_not_found', /no-such-program/],
    ['a missing path', { cmd: '/no/such' }, 400, 'program_not_found', /\/no\/such/],
    ['a directory', { cmd: '/etc' }, 400, 'program_not_executable', /\/etc/],
    [
      'a missing working directory',
      { cmd: 'true', cwd: '/no/where' },
      400,
      'invalid_request',
      /\/no\/where/,
    ],
    [
      'an unknown user',
      { cmd: 'true', user: 'nobody-here' },
      400,
      'invalid_request',
      /nobody-here/,
    ],
    ['no program', {}, 400, 'invalid_request', /cmd is required/],
    [
      'an unknown field',
      { cmd: 'true', shell: true },
      400,
      'invalid_request',
      /shell is not a known field/,
    ],
    ['malformed JSON', '{"cmd": ', 400, 'invalid_request', /not valid JSON/],
    [
      'a body over the limit',
      { cmd: 'true', envs: { A: 'x'.repeat(rest.MAX_JSON_BODY_BYTES) } },
      413,
      'too_large',
      /larger than 4194304 bytes/,
    ],
  ])('exec with %s', async (_what, body, status, code, sentence) => {
    const error = await api.refused('POST', `/v1/sandboxes/${id}/exec`, body);
    expect(error).toMatchObject({ status, code });
    expectSentence(error.message, sentence);
  });

  test('a missing file', async () => {
    const error = await api.refused('GET', `/v1/sandboxes/${id}/files?path=/no/such`);
    expect(error).toMatchObject({ status: 404, code: 'not_found' });
    expectSentence(error.message, /\/no\/such/);
  });

  test('leaves it unchanged: with no process, and responding', async () => {
    const { body } = await api.send('GET', `/v1/sandboxes/${id}/processes`);
    expect(body).toEqual({ processes: [] });
    const exec = await api.send('POST', `/v1/sandboxes/${id}/exec`, { cmd: 'echo', args: ['yes'] });
    expect(exec).toMatchObject({ status: 200, body: { exit_code: 0, stdout: 'yes\n' } });
  });

  test('nothing of it is left when it is destroyed, nor of the platform when it stops', async () => {
    expect((await api.send('DELETE', `/v1/sandboxes/${id}`)).status).toBeLessThan(300);
    expect((await runTorpor(dataDir, ['ls', '-q'])).stdout).toBe('');
    const left = (await traces()).filter((trace) => trace.includes(id));
    expect(left).toEqual([`row: ${id} stopped`]);
    expect(await readdir(join(dataDir, 'sandboxes'))).toEqual([]);
    expect(await platform.stop()).toBe(0);
    expect(await leftovers(instance, dataDir)).toEqual([]);
  });
});

/** Expects a sentence that a user can act on, without internals. */
function expectSentence(message: string, pattern: RegExp): void {
  expect(message).toMatch(pattern);
  expect(message).toMatch(/^[A-Z].*\.$/s);
  expect(message).not.toMatch(/\bat \/|Error:|undefined|ECONN|\[object/);
}
