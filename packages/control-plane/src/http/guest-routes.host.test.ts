import { createHash, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { rest, TorporError } from '@torpor/protocol';
import { errorOf, type Harness, startHarness, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

let harness: Harness;
let id: string;

beforeAll(async () => {
  harness = await startHarness();
  id = (await harness.create({ memory_mb: 128 })).id;
});

afterAll(async () => {
  await harness[Symbol.asyncDispose]();
});

async function exec(body: object): Promise<rest.ExecResult> {
  const response = await harness.send('POST', `/v1/sandboxes/${id}/exec`, body);
  expect(response.status).toBe(200);
  return rest.execResultSchema.parse(await response.json());
}

describe('exec', () => {
  test('runs a program with arguments and environment, and returns all its output', async () => {
    const result = await exec({
      cmd: 'sh',
      args: ['-c', 'echo "$GREETING"; echo problem >&2; exit 3'],
      envs: { GREETING: 'héllo' },
    });
    expect(result).toMatchObject({
      sandbox_id: id,
      cmd: 'sh',
      stdout: 'héllo\n',
      stderr: 'problem\n',
      exit_code: 3,
      encoding: 'utf-8',
      truncated: false,
    });
  });

  test('returns bytes that are not text as base64', async () => {
    const result = await exec({ cmd: 'printf', args: ['\\377\\376'] });
    expect(result.encoding).toBe('base64');
    expect(Buffer.from(result.stdout, 'base64')).toEqual(Buffer.from([0xff, 0xfe]));
  });

  test('says how much of too much output it dropped, and cuts no character', async () => {
    const characters = rest.MAX_EXEC_OUTPUT_BYTES / 2 + 10;
    const result = await exec({
      cmd: process.execPath,
      args: ['-e', `process.stdout.write('x' + 'é'.repeat(${characters}))`],
    });
    expect(result).toMatchObject({ truncated: true, encoding: 'utf-8', stderr_dropped_bytes: 0 });
    const kept = Buffer.byteLength(result.stdout);
    expect(kept + result.stdout_dropped_bytes).toBe(1 + 2 * characters);
    expect(result.stdout.endsWith('é')).toBe(true);
  });

  test('a missing program is program_not_found', async () => {
    const response = await harness.send('POST', `/v1/sandboxes/${id}/exec`, { cmd: 'no-such' });
    expect(response.status).toBe(400);
    expect((await errorOf(response)).code).toBe('program_not_found');
  });

  test.each([
    ['is being committed is left to the agent, which waits for it', 'snapshotting', 200],
    ['is being paused is refused', 'pausing', 409],
  ] as const)('of a sandbox that %s', async (_, state, status) => {
    const source = await harness.create({ memory_mb: 128 });
    harness.agent.report(source.id, state);
    await until(async () => (await harness.get(source.id)).status === state);
    const response = await harness.send('POST', `/v1/sandboxes/${source.id}/exec`, { cmd: 'true' });
    expect(response.status).toBe(status);
    harness.agent.report(source.id, 'running');
  });

  test('a program is killed when its client hangs up', async () => {
    const abort = new AbortController();
    const before = harness.agent.programs.pids.length;
    const response = harness.request(`/v1/sandboxes/${id}/exec`, {
      method: 'POST',
      body: JSON.stringify({ cmd: 'sleep', args: ['600'], timeout_sec: 0 }),
      signal: abort.signal,
    });
    await until(() => harness.agent.programs.pids.length === before + 1);
    abort.abort();
    await expect(response).rejects.toThrow();
    await until(() => harness.agent.programs.pids.length === before);
  });

  test.each([
    [{}, 'cmd is required'],
    [{ cmd: '' }, 'cmd'],
    [{ cmd: 'a\0b' }, 'cmd'],
    [{ cmd: 'true', user: 'a b' }, 'user'],
    [{ cmd: 'true', tag: 'x' }, 'tag'],
    [{ cmd: 'true', timeout_sec: -1 }, 'timeout_sec'],
    [{ cmd: 'true', shell: true }, 'shell is not a known field'],
  ])('refuses %j', async (body, message) => {
    const calls = harness.agent.count('exec');
    const response = await harness.send('POST', `/v1/sandboxes/${id}/exec`, body);
    expect(response.status).toBe(400);
    expect(await response.text()).toContain(message.replaceAll('"', '\\"'));
    expect(harness.agent.count('exec')).toBe(calls);
  });
});

test('background processes are listed and killed by tag and by pid', async () => {
  const background = async (body: object) => {
    const response = await harness.send('POST', `/v1/sandboxes/${id}/exec`, {
      cmd: 'sleep',
      args: ['600'],
      background: true,
      ...body,
    });
    expect(response.status).toBe(202);
    return rest.backgroundExecSchema.parse(await response.json());
  };
  const named = await background({ tag: 'sleeper' });
  const unnamed = await background({});
  expect(named.tag).toBe('sleeper');
  expect(unnamed.tag).toMatch(/^proc-[0-9a-f]{8}$/);
  const listed = async () => {
    const response = await harness.request(`/v1/sandboxes/${id}/processes`);
    return rest.processListSchema.parse(await response.json()).processes;
  };
  expect(await listed()).toContainEqual({
    pid: named.pid,
    tag: 'sleeper',
    cmd: 'sleep',
    args: ['600'],
  });
  const kill = (selector: string | number, query = '') =>
    harness.request(`/v1/sandboxes/${id}/processes/${selector}${query}`, { method: 'DELETE' });
  expect((await kill('sleeper', '?signal=SIGTERM')).status).toBe(204);
  expect((await kill(unnamed.pid)).status).toBe(204);
  await until(async () => (await listed()).length === 0);
  expect((await errorOf(await kill('sleeper'))).code).toBe('not_found');
  expect((await errorOf(await kill('sleeper', '?signal=SIGNOPE'))).code).toBe('invalid_request');
});

describe('files', () => {
  const content = randomBytes(3_000_001);
  const digest = createHash('sha256').update(content).digest('hex');
  const onDisk = async (name: string) =>
    createHash('sha256')
      .update(await readFile(join(harness.agent.root, id, name)))
      .digest('hex');
  const files = (suffix: string) => `/v1/sandboxes/${id}/files${suffix}`;
  const form = (fields: ReadonlyArray<readonly [string, string | Blob]>) => {
    const data = new FormData();
    for (const [name, value] of fields) {
      if (typeof value === 'string') data.append(name, value);
      else data.append(name, value, 'upload.bin');
    }
    return data;
  };

  beforeEach(async () => {
    const response = await harness.request(files('?path=raw.bin'), {
      method: 'PUT',
      body: content,
    });
    expect(response.status).toBe(204);
  });

  test('raw bodies are written and read unchanged', async () => {
    expect(await onDisk('raw.bin')).toBe(digest);
    const response = await harness.request(files('?path=raw.bin'));
    expect(response.headers.get('content-type')).toBe('application/octet-stream');
    const bytes = Buffer.from(await response.arrayBuffer());
    expect(createHash('sha256').update(bytes).digest('hex')).toBe(digest);
  });

  test('an empty file can be written and read', async () => {
    const path = files('?path=empty');
    expect((await harness.request(path, { method: 'PUT' })).status).toBe(204);
    expect((await (await harness.request(path)).arrayBuffer()).byteLength).toBe(0);
  });

  test.each(['/write', '/stream/write'])('multipart to %s', async (route) => {
    const response = await harness.request(files(route), {
      method: 'POST',
      body: form([
        ['path', 'form.bin'],
        ['file', new Blob([content])],
      ]),
    });
    expect(response.status).toBe(204);
    expect(await onDisk('form.bin')).toBe(digest);
  });

  test('multipart with the path in the query, when the file comes first', async () => {
    const response = await harness.request(files('/write?path=late.bin'), {
      method: 'POST',
      body: form([['file', new Blob([content])]]),
    });
    expect(response.status).toBe(204);
    expect(await onDisk('late.bin')).toBe(digest);
  });

  test.each(['100%22.txt', 'a%0Ab', 'quo"te', 'back\\slash', 'end\\', '日本語 🎉', "it's;a=b"])(
    'the path of a form is the path of the file, for any name: %s',
    async (path) => {
      const body = new FormData();
      body.append('path', path);
      body.append('file', new Blob([content], { type: 'text/plain' }), path);
      expect((await harness.request(files('/write'), { method: 'POST', body })).status).toBe(204);
      expect(await onDisk(path)).toBe(digest);
    },
  );

  test('a path in the query may have line breaks, and one in a form has a limit', async () => {
    const query = new URLSearchParams({ path: 'two\nlines' });
    const body = form([['file', new Blob([content])]]);
    const sent = await harness.request(files(`/write?${query}`), { method: 'POST', body });
    expect([sent.status, await onDisk('two\nlines')]).toEqual([204, digest]);
    const long = form([
      ['path', 'x'.repeat(9000)],
      ['file', new Blob([content])],
    ]);
    const refused = await harness.request(files('/write'), { method: 'POST', body: long });
    expect([refused.status, (await errorOf(refused)).code]).toEqual([413, 'too_large']);
  });

  test.each([
    ['no file', form([['path', 'x']])],
    ['no path', form([['file', new Blob([content])]])],
    [
      'a wrong field',
      form([
        ['path', 'x'],
        ['data', new Blob([content])],
      ]),
    ],
    [
      'an unknown field',
      form([
        ['path', 'x'],
        ['mode', '1'],
        ['file', new Blob(['x'])],
      ]),
    ],
    ['no form', 'text'],
  ])('refuses a form with %s', async (_, body) => {
    const calls = harness.agent.count('writeFileStream');
    const response = await harness.request(files('/write'), { method: 'POST', body });
    expect(response.status).toBe(400);
    expect((await errorOf(response)).code).toBe('invalid_request');
    expect(harness.agent.count('writeFileStream')).toBe(calls);
  });

  test('refuses a truncated form', async () => {
    const response = await harness.request(files('/write'), {
      method: 'POST',
      headers: { 'content-type': 'multipart/form-data; boundary=xyz' },
      body: '--xyz\r\nContent-Disposition: form-data; name="path"\r\n\r\nx\r\n--xyz\r\nContent-Disp',
    });
    expect(response.status).toBe(400);
  });

  test.each(['/read', '/stream/read'])('POST %s', async (route) => {
    const response = await harness.send('POST', files(route), { path: 'raw.bin' });
    const bytes = Buffer.from(await response.arrayBuffer());
    expect(createHash('sha256').update(bytes).digest('hex')).toBe(digest);
  });

  test('a missing file is not_found, not an empty response', async () => {
    for (const response of [
      await harness.request(files('?path=missing')),
      await harness.send('POST', files('/read'), { path: 'missing' }),
    ]) {
      expect(response.status).toBe(404);
      expect((await errorOf(response)).code).toBe('not_found');
    }
  });

  test.each([
    ['/stream/write', 'multipart/form-data; boundary=x'],
    ['?path=half.bin', 'application/octet-stream'],
  ])('an upload to %s whose client hangs up fails for the agent too', async (route, type) => {
    const { url, apiKey } = harness.controlPlane;
    const before = harness.agent.files.failedWrites;
    const started = harness.agent.count('writeFileStream');
    const request = httpRequest(`${url}${files(route)}`, {
      method: route.startsWith('?') ? 'PUT' : 'POST',
      headers: { 'x-api-key': apiKey, 'content-type': type },
    });
    request.on('error', () => undefined);
    if (type.startsWith('multipart')) {
      const part = '--x\r\nContent-Disposition: form-data; name=';
      request.write(`${part}"path"\r\n\r\nhalf.bin\r\n${part}"file"; filename="f"\r\n\r\n`);
    }
    request.write(Buffer.alloc(100_000));
    await until(() => harness.agent.count('writeFileStream') > started);
    request.destroy();
    await until(() => harness.agent.files.failedWrites === before + 1);
  });

  test('a response that fails half-way is recognisably incomplete', async () => {
    harness.agent.files.readError = new TorporError(
      'guest_unreachable',
      'The guest no longer exists.',
    );
    const response = await harness.request(files('?path=raw.bin'));
    expect(response.status).toBe(200);
    await expect(response.arrayBuffer()).rejects.toThrow();
    harness.agent.files.readError = undefined;
    expect(harness.log()).toContain('Response failed before it was complete');
  });

  test('directories are made, listed and removed', async () => {
    const made = await harness.send('POST', files('/mkdir'), { path: 'dir' });
    expect(rest.fileEntryResponseSchema.parse(await made.json()).entry).toMatchObject({
      name: 'dir',
      type: 'directory',
    });
    const again = await harness.send('POST', files('/mkdir'), { path: 'dir' });
    expect([again.status, (await errorOf(again)).code]).toEqual([409, 'already_exists']);
    await harness.request(files('?path=dir/inner'), { method: 'PUT', body: 'abc' });
    const list = await harness.send('POST', files('/list'), { path: 'dir' });
    expect(rest.fileListSchema.parse(await list.json()).entries).toMatchObject([
      { name: 'inner', type: 'file', size: 3, path: 'dir/inner' },
    ]);
    expect((await harness.send('POST', files('/remove'), { path: 'dir' })).status).toBe(204);
    expect((await harness.request(files('?path=dir/inner'))).status).toBe(404);
  });
});
