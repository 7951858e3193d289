import { mkdir, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Image, ImageStore } from '@torpor/images';
import { runCommand } from '@torpor/linux';
import { afterAll, beforeAll, expect, test } from 'vitest';

/* The content of the image `base`, from a chroot into it. */

/** A build from an empty cache takes minutes on a slow machine. */
const BUILD_TIMEOUT_MS = 15 * 60_000;

let directory: string;
let root: string;
let image: Image;

beforeAll(async () => {
  const cacheDir = process.env.TORPOR_CACHE_DIR ?? '/var/lib/torpor';
  image = await new ImageStore({ cacheDir }).build('base');
  directory = await mkdtemp(join(tmpdir(), 'base-image-'));
  root = join(directory, 'root');
  await mkdir(root);
  // An overlay, so that the programs can write without changing the image.
  for (const name of ['image', 'layers']) await mkdir(join(directory, name));
  await runCommand('mount', ['-o', 'loop,ro', image.path, join(directory, 'image')]);
  await runCommand('mount', ['-t', 'tmpfs', 'tmpfs', join(directory, 'layers')]);
  for (const name of ['upper', 'work']) await mkdir(join(directory, 'layers', name));
  const layers = `lowerdir=${directory}/image,upperdir=${directory}/layers/upper,workdir=${directory}/layers/work`;
  await runCommand('mount', ['-t', 'overlay', '-o', layers, 'overlay', root]);
  // In the image, dpkg has written a regular file: programs need the device.
  await runCommand('mount', ['--bind', '/dev/null', join(root, 'dev/null')]);
}, BUILD_TIMEOUT_MS);

afterAll(async () => {
  if (directory === undefined) return;
  for (const name of ['root/dev/null', 'root', 'layers', 'image']) {
    await runCommand('umount', [join(directory, name)]).catch(() => undefined);
  }
  await rm(directory, { recursive: true });
});

/** Runs a program of the image as the sandboxes' user. */
function asUser(...command: string[]): Promise<string> {
  const environment = ['HOME=/home/user', 'PATH=/usr/local/bin:/usr/bin:/bin', 'LANG=C.UTF-8'];
  return runCommand('chroot', [
    ...['--userspec=user:user', root, 'env', '-i', '-C', '/home/user', ...environment],
    ...command,
  ]);
}

test.each([
  [['bash', '-c', 'echo $BASH_VERSION'], /^5\./],
  [['python3', '-c', 'print(6 * 7)'], /^42$/m],
  [['node', '-p', 'process.version'], /^v\d+\./],
  [['npm', '--version'], /^\d+\./],
  [['git', '--version'], /^git version/],
  [['curl', '--version'], /https/],
  [['watch', '--version'], /procps/],
  [['ip', '-V'], /iproute2/],
  [['ping', '-V'], /iputils/],
  [['wget', '--version'], /GNU Wget/],
  [['jq', '--version'], /^jq-/],
  [['make', '--version'], /GNU Make/],
  [['gcc', '--version'], /Debian/],
  [['g++', '--version'], /Debian/],
  [['vim', '--version'], /^VIM/],
  [['rsync', '--version'], /protocol version/],
  [['zip', '-v'], /Info-ZIP/],
  [['file', '--version'], /^file-/],
  [['sh', '-c', 'lsof -v 2>&1'], /lsof/],
  [['strace', '-V'], /^strace/],
  [['dig', '-V'], /Knot DNS/],
  [['tree', '--version'], /^tree/],
  [['/usr/sbin/modprobe', '--version'], /^kmod/],
  [['python', '--version'], /^Python 3/],
  [['tput', '-T', 'xterm-256color', 'colors'], /^256$/m],
  [['locale', '-a'], /C\.utf8/],
  [['id'], /^uid=1000\(user\)/],
])('%j runs as user', async (command, output) => {
  expect(await asUser(...command)).toMatch(output);
});

test('git can serve a repository', async () => {
  const commands = await runCommand('chroot', [root, 'git', '--exec-path']);
  expect(await readdir(join(root, commands.trim()))).toContain('git-daemon');
});

test('the user becomes root without a password', async () => {
  expect(await asUser('sudo', '-n', 'id', '-u')).toBe('0\n');
});

test('it has no identity and no caches, and resolves its own name', async () => {
  expect(await readFile(join(root, 'etc/machine-id'), 'utf8')).toBe('');
  expect(await readFile(join(root, 'etc/resolv.conf'), 'utf8')).toBe('');
  expect(await readFile(join(root, 'etc/hosts'), 'utf8')).toContain('127.0.0.1\tlocalhost sandbox');
  expect(await readdir(join(root, 'var/lib/apt/lists'))).toEqual([]);
  expect(await readdir(join(root, 'var/cache/apt'))).toEqual([]);
});

test('pip can install into it, and programs find the mounts', async () => {
  expect(await asUser('sh', '-c', 'ls /usr/lib/python3*/EXTERNALLY-MANAGED || true')).toBe('');
  expect(await asUser('readlink', '/etc/mtab')).toBe('../proc/self/mounts\n');
});

test('the user has subordinate ids for rootless containers', async () => {
  expect(await asUser('cat', '/etc/subuid', '/etc/subgid')).toBe(
    'user:100000:65536\nuser:100000:65536\n',
  );
});

test('it is consistent, and smaller than 800 MB', async () => {
  await runCommand('e2fsck', ['-f', '-n', image.path]);
  expect((await stat(image.path)).blocks * 512).toBeLessThan(800e6);
});

test('a second build returns the existing image', async () => {
  const messages: string[] = [];
  const cacheDir = process.env.TORPOR_CACHE_DIR ?? '/var/lib/torpor';
  const again = await new ImageStore({ cacheDir }).build('base', {
    onProgress: ({ message }) => messages.push(message),
  });
  expect(again).toEqual(image);
  expect(messages).toEqual([]);
});
