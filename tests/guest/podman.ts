import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ImageStore } from '@torpor/images';
import { runCommand } from '@torpor/linux';

const PACKAGES = ['podman', 'crun', 'fuse-overlayfs', 'slirp4netns', 'iptables'];

/**
 * Debian's Podman with its dependencies that the image `base` lacks, as a tar archive to
 * unpack at the guest's root. apt fetches it here, since a guest would take minutes to
 * install it under emulation.
 */
export async function downloadPodman(): Promise<Buffer> {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-podman-'));
  try {
    const archives = join(directory, 'archives');
    const root = join(directory, 'root');
    const status = join(directory, 'status');
    await mkdir(join(archives, 'partial'), { recursive: true });
    await mkdir(join(root, 'etc/containers'), { recursive: true });
    await writeFile(status, await installedPackages());
    await runCommand('apt-get', [
      ...['install', '-y', '-q', '--no-install-recommends', '--download-only'],
      ...['-o', `Dir::State::status=${status}`, '-o', `Dir::Cache::archives=${archives}`],
      ...['-o', 'APT::Sandbox::User=root', ...PACKAGES],
    ]);
    for (const name of (await readdir(archives)).filter((file) => file.endsWith('.deb'))) {
      await runCommand('dpkg-deb', ['-x', join(archives, name), root]);
    }
    // As the packages' scripts would.
    await symlink('xtables-nft-multi', join(root, 'usr/sbin/iptables'));
    await symlink('xtables-nft-multi', join(root, 'usr/sbin/ip6tables'));
    const tar = join(directory, 'podman.tar');
    const left = ['doc', 'man', 'locale'].map((name) => `--exclude=./usr/share/${name}`);
    await runCommand('tar', ['-C', root, ...left, '-cf', tar, '.']);
    return await readFile(tar);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** The dpkg database of the image `base`. */
async function installedPackages(): Promise<string> {
  const cacheDir = process.env.TORPOR_CACHE_DIR ?? '/var/lib/torpor';
  const { path } = await new ImageStore({ cacheDir }).build('base');
  return runCommand('debugfs', ['-R', 'cat /var/lib/dpkg/status', path]);
}
