import { optionName } from '@torpor/cli/testing';
import { rest, TorporError } from '@torpor/protocol';
import { Torpor } from '@torpor/sdk';
import { cli } from '@torpor/testkit/cli';
import { type Harness, startHarness } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { z } from 'zod';

/*
 * An error uses the names of the interface: fields of the body over REST, options of the SDK,
 * options of the command line.
 */

const resources = new AsyncDisposableStack();
let harness: Harness;
let torpor: Torpor;
let id: string;

beforeAll(async () => {
  harness = resources.use(await startHarness());
  const { url, apiKey } = harness.controlPlane;
  torpor = resources.use(new Torpor({ apiUrl: url, apiKey }));
  ({ id } = await harness.create());
});
afterAll(() => resources.disposeAsync());

async function refusal(call: Promise<unknown>): Promise<TorporError> {
  const error = await call.then(
    () => new Error('It was not refused.'),
    (reason: unknown) => reason,
  );
  if (!(error instanceof TorporError)) throw error;
  return error;
}

/** Fields of the API with a value that is refused, and the calls that send them. */
const REFUSED = {
  create: {
    template: () => torpor.sandboxes.create({ template: ' ' }),
    vcpus: () => torpor.sandboxes.create({ vcpus: 99 }),
    memoryMiB: () => torpor.sandboxes.create({ memoryMiB: 1 }),
    diskSizeMiB: () => torpor.sandboxes.create({ diskSizeMiB: 1 }),
    idleTimeoutMs: () => torpor.sandboxes.create({ idleTimeoutMs: -5000 }),
    autoPause: () => torpor.sandboxes.create({ autoPause: true }),
    'metadata.': () => torpor.sandboxes.create({ metadata: { '': 'x' } }),
    'hostTags.0': () => torpor.sandboxes.create({ hostTags: ['a b'] }),
    'envs.A=B': () => torpor.sandboxes.create({ envs: { 'A=B': 'x' } }),
  },
  run: {
    cmd: async () => (await torpor.sandboxes.get(id)).exec(''),
    args: async () =>
      (await torpor.sandboxes.get(id)).exec('true', Array(30).fill('x'.repeat(1e5))),
    'args.1': async () => (await torpor.sandboxes.get(id)).exec('true', ['a', '\0']),
    cwd: async () => (await torpor.sandboxes.get(id)).exec('true', [], { cwd: '\0' }),
    user: async () => (await torpor.sandboxes.get(id)).exec('true', [], { user: '!' }),
    timeoutMs: async () => (await torpor.sandboxes.get(id)).exec('true', [], { timeoutMs: 1e12 }),
    tag: async () => (await torpor.sandboxes.get(id)).start('true', [], { tag: '!' }),
    name: async () => (await torpor.sandboxes.get(id)).processes.kill(1, { name: 'SIGNOPE' }),
  },
  stream: {
    cmd: async () => (await torpor.sandboxes.get(id)).execStream(''),
    timeoutMs: async () =>
      (await torpor.sandboxes.get(id)).execStream('true', [], { timeoutMs: 1e12 }),
    'size.cols': async () => (await torpor.sandboxes.get(id)).pty({ size: { cols: 0, rows: 24 } }),
  },
  copy: {
    idleTimeoutMs: async () => (await torpor.sandboxes.get(id)).resume({ idleTimeoutMs: -5000 }),
    count: async () => (await torpor.sandboxes.get(id)).fork(0),
    name: () => torpor.snapshots.create(id, { name: '!' }),
    defaultUser: () => torpor.snapshots.create(id, { defaultUser: '!' }),
    'defaultEnv.A=B': () => torpor.snapshots.create(id, { defaultEnv: { 'A=B': 'x' } }),
    maxBytes: async () => (await torpor.sandboxes.get(id)).console({ maxBytes: 0 }),
  },
} as const;

describe.each(Object.entries(REFUSED))('the SDK says of %s', (_, calls) => {
  test.each(Object.entries(calls))('%s', async (field, call) => {
    const error = await refusal(call());
    expect(error).toMatchObject({ code: 'invalid_request', issues: [{ field }] });
    expect(error.message).toMatch(/^Invalid options: /);
    expect(error.message).not.toMatch(
      /_mb|_sec|_pause|Too (big|small)|expected|received|frame|body/,
    );
  });
});

/** Fields that no command sends. */
const NOT_ON_THE_COMMAND_LINE = ['next_token', 'limit', 'data', 'binary'];

test('the command line has a name for every field that a request can have', () => {
  const schemas: z.ZodObject[] = [
    rest.createSandboxSchema,
    rest.execRequestSchema,
    rest.resumeSandboxSchema,
    rest.forkSandboxSchema,
    rest.createSnapshotSchema,
    rest.createSnapshotQuerySchema,
    rest.listSnapshotsQuerySchema,
    rest.listSandboxesQuerySchema,
    rest.filePathQuerySchema,
    ...rest.execClientFrameSchema.options,
    ...rest.ptyClientFrameSchema.options,
  ];
  const sdkNames: Record<string, string> = {
    memory_mb: 'memoryMiB',
    disk_size_mb: 'diskSizeMiB',
    auto_pause: 'autoPause',
    allow_internet: 'allowInternet',
    host_tags: 'hostTags',
    sandbox_id: 'sandboxId',
    default_user: 'defaultUser',
    default_env: 'defaultEnv',
    state: 'states',
    cols: 'size.cols',
    rows: 'size.rows',
    timeout_sec: 'timeoutMs',
  };
  const fields = new Set(schemas.flatMap(({ shape }) => Object.keys(shape)));
  for (const field of fields) {
    if (NOT_ON_THE_COMMAND_LINE.includes(field)) continue;
    const name = sdkNames[field] ?? field;
    expect([field, optionName(name)]).not.toEqual([field, name]);
  }
});

test.each([
  [['create', '-m', '64'], '--memory must be 128 to 2048 MiB on this host'],
  [['create', '--vcpus', '9'], '--vcpus must be 1 to 4 on this host'],
  [['create', '--disk', '1'], '--disk must be at least 64 MiB'],
  [['create', '--disk', '2t'], '--disk must be at most 1048576 MiB (1 TiB)'],
  [['create', '-m', '99t'], 'A sandbox on this host can have at most 2048 MiB of memory'],
  [['create', '-m', '9999t'], 'A sandbox on this host can have at most 2048 MiB of memory'],
  [['run', '--disk', '1', '--', 'true'], '--disk must be at least 64 MiB'],
  [['shell', '--idle-timeout', '366d'], '--idle-timeout must be at most 31536000 s (365d)'],
  [['create', '--auto-pause'], '--auto-pause needs an idle timeout, after which to pause'],
  [['create', '-t', ' '], '--template must be the name of a template'],
  [['create', '--idle-timeout', '9999h'], '--idle-timeout must be at most 31536000 s (365d)'],
  [
    ['exec', 'ID', '--user', '!', '--', 'true'],
    '--user must be a user, or user:group, by name or number',
  ],
  [['exec', 'ID', '--', ''], 'The program must not be empty'],
  [['exec', 'ID', '--timeout', '9999h', '--', 'true'], '--timeout must be at most 604800 s (7d)'],
  [['run', '--timeout', '8d', '--', 'true'], '--timeout must be at most 604800 s (7d)'],
  [['exec', 'ID', '-d', '--tag', '!', '--', 'true'], '--tag must be 1 to 64 of'],
  [['snapshot', 'ID', '--name', '!'], 'The name must be 1 to 64 of'],
  [['fork', 'ID', '--idle-timeout', '366d'], '--idle-timeout must be at most 31536000 s (365d)'],
  [['resume', 'ID', '--idle-timeout', '9999h'], '--idle-timeout must be at most 31536000 s (365d)'],
])('torpor %j', async (args, sentence) => {
  const env = { TORPOR_DATA_DIR: harness.dataDir };
  const line = args.map((arg) => (arg === 'ID' ? id : arg));
  const { stderr, stdout } = await cli(line, { env });
  expect(stderr).toContain(`torpor: ${sentence}`);
  expect(stdout).toBe('');
});
