import { mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { REQUIREMENTS } from '@torpor/agent/host-setup';
import {
  buildSources,
  computeKey,
  ensureArtifact,
  packageProgress,
  proxyOptions,
  toolEnvironment,
} from '@torpor/images/testing';
import { runCommand } from '@torpor/linux';
import { makeDisk } from './disk.ts';
import { PRODUCT } from './product-disk.ts';

/** Incremented when the contents of the image change for a reason that is not in its key. */
const RECIPE = 1;
const DISK_MIB = 6 * 1024;
const BUILD_TIMEOUT_MS = 45 * 60_000;

/** The packages of a Debian server; Torpor's requirements are added. */
const PACKAGES = ['dbus', 'kmod', 'linux-image-cloud-amd64', 'procps', 'systemd-sysv', 'udev'];
/** QEMU 10 and the guests' kernel are in the backports. */
const PREFERENCES = `Package: src:qemu src:seabios src:linux src:linux-signed-amd64
Pin: release n=bookworm-backports
Pin-Priority: 990
`;

/** The walk's output goes to the second serial port; the first is the machine's console. */
const REPORT_DEVICE = '/dev/ttyS1';

const UNIT = `[Unit]
Description=Torpor's command line under KVM
RequiresMountsFor=${PRODUCT.mount}
After=multi-user.target

[Service]
Type=oneshot
EnvironmentFile=${PRODUCT.environment}
ExecStart=${PRODUCT.node} ${PRODUCT.walk}
StandardOutput=file:${REPORT_DEVICE}
StandardError=file:${REPORT_DEVICE}
# Powers the machine off, even if the walk has left something running.
ExecStopPost=/usr/bin/systemctl --no-block poweroff
KillMode=mixed
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
`;

const FILES: Readonly<Record<string, string>> = {
  'etc/hostname': 'bare-host\n',
  'etc/hosts': '127.0.0.1\tlocalhost bare-host\n',
  'etc/fstab': `LABEL=${PRODUCT.label} ${PRODUCT.mount} ext4 defaults 0 0\n`,
  'etc/systemd/system/torpor-walk.service': UNIT,
};

export interface HostImage {
  readonly diskPath: string;
  readonly kernelPath: string;
  readonly initramfsPath: string;
}

/**
 * The disk of a freshly installed Debian 12 with everything that `torpor setup` would
 * install, and its kernel. Created once, in about five minutes, and kept in the cache.
 */
export async function ensureHostImage(
  cacheDir: string,
  report: (line: string) => void,
): Promise<HostImage> {
  const needed = REQUIREMENTS.flatMap((requirement) => requirement.packages);
  const packages = [...new Set([...PACKAGES, ...needed])].sort();
  const key = computeKey({ recipe: RECIPE, packages, PREFERENCES, FILES, DISK_MIB });
  const directory = await ensureArtifact({
    directory: join(cacheDir, 'kvm-test'),
    key,
    build: async (staging) => {
      const root = join(staging, 'root');
      await bootstrap(staging, root, packages, report);
      await configure(root);
      report('writing the disk');
      await makeDisk(join(staging, 'disk.img'), root, DISK_MIB, 'bare-host');
      await runCommand('cp', [...(await bootFiles(join(root, 'boot'))), staging]);
      await rm(root, { recursive: true });
    },
    onWait: () => report('waiting for another process that builds it'),
  });
  const [kernelPath, initramfsPath] = await bootFiles(directory);
  return { diskPath: join(directory, 'disk.img'), kernelPath, initramfsPath };
}

async function bootstrap(
  staging: string,
  root: string,
  packages: readonly string[],
  report: (line: string) => void,
): Promise<void> {
  const preferences = join(staging, 'preferences');
  await writeFile(preferences, PREFERENCES);
  const sources = await buildSources();
  const archive = /^deb (\S+) bookworm main$/.exec(sources[0] ?? '')?.[1];
  if (archive === undefined) throw new Error(`no archive of Debian 12 in ${sources.join('; ')}`);
  await runCommand(
    'unshare',
    [
      ...['--pid', '--fork', '--kill-child=SIGKILL', '--mount', '--mount-proc'],
      ...['mmdebstrap', '--mode=root', '--variant=minbase', '--format=directory', '--verbose'],
      `--include=${packages.join(',')}`,
      ...['man', 'doc', 'locale'].map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`),
      ...(await proxyOptions()).map((line) => `--aptopt=${line}`),
      `--setup-hook=cp ${preferences} "$1/etc/apt/preferences.d/torpor"`,
      ...['bookworm', root, ...sources, `deb ${archive} bookworm-backports main`],
    ],
    {
      env: { ...toolEnvironment(), DEBIAN_FRONTEND: 'noninteractive' },
      timeoutMs: BUILD_TIMEOUT_MS,
      onLine: packageProgress(report),
    },
  );
}

async function configure(root: string): Promise<void> {
  for (const [path, text] of Object.entries(FILES)) await writeFile(join(root, path), text);
  await mkdir(join(root, PRODUCT.mount));
  const wanted = join(root, 'etc/systemd/system/multi-user.target.wants');
  await mkdir(wanted, { recursive: true });
  await symlink('../torpor-walk.service', join(wanted, 'torpor-walk.service'));
}

async function bootFiles(directory: string): Promise<[kernel: string, initramfs: string]> {
  const names = await readdir(directory);
  const find = (prefix: string): string => {
    const name = names.find((candidate) => candidate.startsWith(prefix));
    if (name === undefined) throw new Error(`the Debian image has no ${prefix}*`);
    return join(directory, name);
  };
  return [find('vmlinuz-'), find('initrd.img-')];
}
