import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { FakeBehaviour } from './fake-firecracker.ts';

// The fake is only useful if it refuses what the real one does.

const FAKE = fileURLToPath(new URL('fake-firecracker.ts', import.meta.url));

let directory: string;
let child: ChildProcess | undefined;
let output: string;

beforeEach(async () => {
  directory = await mkdtemp('/tmp/torpor-fake-');
  output = '';
  await writeFile(join(directory, 'kernel'), 'a kernel');
});

afterEach(async () => {
  child?.kill('SIGKILL');
  await rm(directory, { recursive: true });
});

function start(behaviour: FakeBehaviour = {}, ...more: string[]): Promise<number | null> {
  const args = [FAKE, '--api-sock', 'api.sock', '--id', 'test', ...more];
  const env = { ...process.env, FAKE_FIRECRACKER: JSON.stringify(behaviour) };
  const started = spawn(process.execPath, args, { cwd: directory, env });
  child = started;
  started.stderr.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  return new Promise((resolve) => started.once('exit', resolve));
}

interface ApiResponse {
  readonly status: number;
  readonly fault?: string;
}

function ask(method: string, path: string, body: object): Promise<ApiResponse> {
  return new Promise((resolve, reject) => {
    const socketPath = join(directory, 'api.sock');
    const sent = request({ socketPath, method, path }, async (response) => {
      const text = (await response.setEncoding('utf8').toArray()).join('');
      const status = response.statusCode ?? 0;
      resolve(text === '' ? { status } : { status, fault: JSON.parse(text).fault_message });
    });
    sent.once('error', reject);
    sent.end(JSON.stringify(body));
  });
}

const done = { status: 204 };
const refused = (fault: RegExp) => ({ status: 400, fault: expect.stringMatching(fault) });
const BOOT_SOURCE = { kernel_image_path: 'kernel', initrd_path: 'kernel', boot_args: 'quiet' };
const MACHINE = { vcpu_count: 1, mem_size_mib: 16, track_dirty_pages: true };
const LOAD = { snapshot_path: 's', mem_backend: { backend_type: 'File', backend_path: 'm' } };
const CREATE = { snapshot_path: 's', mem_file_path: 'm' };

async function ready(behaviour: FakeBehaviour = {}): Promise<{ exit: Promise<number | null> }> {
  const exit = start(behaviour);
  await vi.waitFor(() => ask('PATCH', '/none', {}), { timeout: 30_000 });
  return { exit };
}

test('bodies with unknown, missing or invalid fields are refused', async () => {
  await ready({ version: '1.11.0' });
  const source = '/boot-source';
  expect(await ask('PUT', source, { ...BOOT_SOURCE, x: 1 })).toEqual(refused(/unknown field `x`/));
  expect(await ask('PUT', source, { boot_args: 'quiet' })).toEqual(
    refused(/missing field `kernel_image_path`/),
  );
  expect(await ask('PUT', source, { kernel_image_path: 1 })).toEqual(refused(/invalid value/));
  const drive = { drive_id: 'b', path_on_host: 'kernel', is_root_device: false };
  expect(await ask('PUT', '/drives/a', drive)).toEqual(refused(/does not match the id/));
  expect(await ask('PUT', '/vm', { state: 'Paused' })).toEqual(refused(/Invalid request method/));
  const absolute = { ...drive, path_on_host: join(directory, 'kernel') };
  expect(await ask('PUT', '/drives/b', absolute)).toEqual(refused(/absolute paths/));
});

test.each([
  ['1.11.0', { network_overrides: [] }],
  ['1.12.0', { track_dirty_pages: true }],
  ['1.15.0', { clock_realtime: true }],
])('version %s does not know %o', async (version, newer) => {
  await ready({ version });
  expect(await ask('PUT', '/snapshot/load', { ...LOAD, ...newer })).toEqual(
    refused(new RegExp(`unknown field \`${Object.keys(newer)[0]}\``)),
  );
});

test('calls in the wrong order are refused', async () => {
  const { exit } = await ready();
  const start = { action_type: 'InstanceStart' };
  expect(await ask('PATCH', '/vm', { state: 'Paused' })).toEqual(refused(/before starting/));
  expect(await ask('PUT', '/actions', start)).toEqual(refused(/without kernel/));
  expect(await ask('PUT', '/boot-source', BOOT_SOURCE)).toEqual(done);
  expect(await ask('PUT', '/snapshot/load', LOAD)).toEqual(refused(/boot-specific resources/));
  expect(await ask('PUT', '/machine-config', MACHINE)).toEqual(done);
  expect(await ask('PUT', '/actions', start)).toEqual(done);
  expect(await ask('PUT', '/actions', start)).toEqual(refused(/after starting/));
  expect(await ask('PUT', '/machine-config', MACHINE)).toEqual(refused(/after starting/));
  expect(await ask('PUT', '/snapshot/create', CREATE)).toEqual(refused(/is running/));
  expect(await ask('PATCH', '/vm', { state: 'Paused' })).toEqual(done);
  expect(await ask('PUT', '/snapshot/create', CREATE)).toEqual(done);
  expect(await ask('PUT', '/snapshot/load', LOAD)).toEqual(refused(/after starting/));
  expect(await ask('PATCH', '/vm', { state: 'Resumed' })).toEqual(done);
  expect(await ask('PUT', '/actions', { action_type: 'SendCtrlAltDel' })).toEqual(done);
  expect(await exit).toBe(0);
});

test('two states of one paused machine differ only in their clock, and their memory is the same', async () => {
  await ready();
  for (const [method, path, body] of [
    ['PUT', '/boot-source', BOOT_SOURCE],
    ['PUT', '/machine-config', MACHINE],
    ['PUT', '/actions', { action_type: 'InstanceStart' }],
    ['PATCH', '/vm', { state: 'Paused' }],
    ['PUT', '/snapshot/create', { snapshot_path: 's1', mem_file_path: 'm1' }],
    ['PUT', '/snapshot/create', { snapshot_path: 's2', mem_file_path: 'm2' }],
  ] as const) {
    expect(await ask(method, path, body)).toEqual(done);
  }
  const file = (name: string) => readFile(join(directory, name));
  const [first, second] = (await Promise.all(['s1', 's2'].map(file))).map((bytes) =>
    JSON.parse(bytes.toString().split('\n')[2] ?? ''),
  );
  expect(first.clock).not.toBe(second.clock);
  expect({ ...first, clock: '' }).toEqual({ ...second, clock: '' });
  expect((await file('m1')).equals(await file('m2'))).toBe(true);
});

test('a load that fails returns its error, and the process exits with the same one', async () => {
  const { exit } = await ready();
  const message = /Load snapshot error: Failed to restore from snapshot: .*ENOENT/;
  expect(await ask('PUT', '/snapshot/load', LOAD)).toEqual(refused(message));
  expect(await exit).toBe(1);
  expect(output).toMatch(message);
});

test('command lines that the real one refuses are refused', async () => {
  expect(await start({}, '--unknown')).toBe(153);
  await writeFile(join(directory, 'api.sock'), '');
  expect(await start()).toBe(1);
  expect(output).toMatch(/Check that it is not already used/);
});
