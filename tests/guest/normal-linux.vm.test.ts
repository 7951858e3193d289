import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DEFAULT_DISK_MIB } from '@torpor/agent/testing';
import { type Sandbox, Torpor } from '@torpor/sdk';
import { runTorpor, TorporProcess } from '@torpor/testkit/cli';
import { openDataDirWithBoots } from '@torpor/testkit/guests';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CACHE_DIR } from '../agent/agent-under-test.ts';
import { EXPECTATIONS } from './expectations.ts';
import { downloadPodman } from './podman.ts';

/* Compares a guest with the environment of programs in a Debian container, or after Debian's own init. */

/** For compilers and container engines under emulation. */
const SLOW = 10 * 60_000;

let resources: AsyncDisposableStack;
let dataDir: string;
let sandbox: Sandbox;

beforeAll(async () => {
  resources = new AsyncDisposableStack();
  const shape = { vcpus: 1, memoryMiB: 1024, diskMiB: DEFAULT_DISK_MIB };
  dataDir = resources.use(await openDataDirWithBoots(CACHE_DIR, shape)).path;
  const platform = resources.use(await TorporProcess.start(dataDir));
  const credentials = await readFile(join(dataDir, 'credentials.json'), 'utf8');
  const { api_key: apiKey } = JSON.parse(credentials) as { api_key: string };
  const torpor = resources.use(new Torpor({ apiUrl: platform.apiUrl, apiKey }));
  sandbox = resources.use(await torpor.sandboxes.create({ memoryMiB: 1024 }));
}, SLOW);
afterAll(() => resources.disposeAsync());

async function run(script: string, user?: string): Promise<string> {
  const { stdout, stderr } = await sandbox.exec('bash', ['-c', script], { user, timeoutMs: SLOW });
  return stdout.trimEnd() || stderr;
}

test.each(EXPECTATIONS)(
  '$what',
  async ({ script, user, prints }) => {
    const printed = await run(script, user);
    if (typeof prints === 'string') expect(printed).toBe(prints);
    else expect(printed).toMatch(prints);
  },
  SLOW,
);

describe('the exit status of torpor exec', () => {
  test.each<[string, string[], number]>([
    ['a missing program', ['no-such-program'], 127],
    ['a missing path', ['/no/such'], 127],
    ['a directory', ['/etc'], 126],
    ['a file that is not executable', ['/etc/passwd'], 126],
    ['a script without its interpreter', ['/tmp/orphan'], 127],
    ['a script without a first line', ['/tmp/plain'], 3],
    ['a status', ['sh', '-c', 'exit 7'], 7],
    ['a signal', ['sh', '-c', 'kill -TERM $$'], 143],
  ])('%s', async (_what, command, status) => {
    await run(
      'printf "#!/no/such\\n" > /tmp/orphan; echo exit 3 > /tmp/plain; chmod +x /tmp/orphan /tmp/plain',
    );
    const { exitCode } = await runTorpor(dataDir, ['exec', sandbox.id, '--', ...command]);
    expect(exitCode).toBe(status);
  });
});

test.each([
  ['root', '0 root'],
  ['0', '0 root'],
  ['user', '1000 user'],
  ['1000', '1000 user'],
  ['www-data', '33 www-data'],
  ['65534', '65534 nobody'],
  ['4242', '4242 4242'],
])('a program as %s', async (user, who) => {
  expect(await run('echo "$(id -u) $USER"', user)).toBe(who);
});

// As in docker exec.
test.each([
  ['4242', '0 0 / drwx------ 4242'],
  ['4242:4343', '4343 4343 / drwx------ 4242'],
  ['user:sudo', '27 27 /home/user drwx------ user'],
])('the group, groups, home and directory of %s', async (user, expected) => {
  const script =
    'echo $(id -g) $(id -G) $HOME $(stat -c "%A %U" $XDG_RUNTIME_DIR | sed s/UNKNOWN/$USER/)';
  expect(await run(script, user)).toBe(expected);
});

test.each(['ghost', 'ghost:user', 'user:ghosts'])('the user %s does not exist', async (user) => {
  await expect(sandbox.exec('id', [], { user })).rejects.toMatchObject({
    code: 'invalid_request',
    message: expect.stringContaining('ghost'),
  });
});

test('more arguments than 4,096', async () => {
  const args = Array.from({ length: 100_000 }, () => 'x');
  const { stdout } = await sandbox.exec('sh', ['-c', 'echo $#', 'sh', ...args]);
  expect(stdout).toBe('100000\n');
});

describe('Podman, from an image that was built in the sandbox', () => {
  beforeAll(async () => {
    await sandbox.files.write('/tmp/podman.tar', await downloadPodman(), { user: 'root' });
    await run(
      'tar -C / --keep-directory-symlink -xf /tmp/podman.tar && rm /tmp/podman.tar && ldconfig',
      'root',
    );
    await sandbox.files.write('/tmp/box/busybox', await readFile('/usr/bin/busybox'));
    await sandbox.files.write(
      '/tmp/box/Containerfile',
      'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n',
    );
    await run('chmod 755 /tmp/box/busybox', 'user');
  }, SLOW);

  test.each([
    // The overlay is the kernel's own, on the store outside of the root's overlay.
    ['root', /^42\n0\n2\noverlay v2$/],
    ['user', /^42\n0\n2\n\w+ v2$/],
  ])(
    'runs a container as %s, with its own network',
    async (user, prints) => {
      const script = [
        'cd /tmp/box && podman build -q --network none -t box . >/dev/null',
        'podman run --rm box sh -c "echo \\$((6*7)); id -u; ip -o link | wc -l"',
        'podman info --format "{{.Store.GraphDriverName}} {{.Host.CgroupsVersion}}"',
      ].join(' && ');
      expect(await run(script, user)).toMatch(prints);
    },
    SLOW,
  );
});
