import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';

/**
 * A jailer as strict about its command line as the real one (src/jailer/src/env.rs),
 * which creates the same jail: the chroot below its base directory, with the existing mounts,
 * device nodes, the network namespace, the limits, the user. It starts a Node program, so
 * Node's files are in the chroot too.
 */

const { version = '1.16.1' } = JSON.parse(process.env.FAKE_FIRECRACKER ?? '{}');
const SYSTEM_PATH = '/usr/sbin:/usr/bin:/sbin:/bin';
const CHECKOUT = join(import.meta.dirname, '../../../..');

const MAKE_JAIL = `set -e
root=$1 owner=$2
shift 2
mount --rbind "$root" "$root"
cd "$root"
mkdir -p dev/net run proc tmp
mount --rbind /proc proc
for device in kvm net/tun userfaultfd; do
	[ -e "/dev/$device" ] || continue
	cp -a "/dev/$device" "dev/$device"
	chown "$owner" "dev/$device"
done
chown "$owner" . dev dev/net run
chmod 700 . dev dev/net run
while [ "$1" != -- ]; do
	if [ -L "$1" ]; then cp -a "$1" ".$1"; else mkdir -p ".$1"; mount --bind "$1" ".$1"; fi
	shift
done
shift
exec "$@"`;

function fail(message: string): never {
  process.stderr.write(`Jailer error: ${message}\n`);
  process.exit(1);
}

function main(): void {
  if (process.argv.includes('--version')) {
    process.stdout.write(`Jailer v${version}\n`);
    return;
  }
  const at = process.argv.indexOf('--');
  if (at < 0) fail('no arguments for Firecracker');
  const { values } = parseArgs({
    args: process.argv.slice(2, at),
    strict: true,
    options: {
      id: { type: 'string' },
      'exec-file': { type: 'string' },
      uid: { type: 'string' },
      gid: { type: 'string' },
      'chroot-base-dir': { type: 'string', default: '/srv/jailer' },
      netns: { type: 'string' },
      'resource-limit': { type: 'string', multiple: true, default: [] },
    },
  });
  const { id, 'exec-file': program, uid, gid, netns } = values;
  if (id === undefined || !/^[A-Za-z0-9-]{1,64}$/.test(id)) fail('Invalid instance ID');
  if (program === undefined || !existsSync(program)) fail('Failed to canonicalize the exec file');
  if (!/^\d+$/.test(uid ?? '') || !/^\d+$/.test(gid ?? '')) fail('Missing uid or gid');
  const limits = values['resource-limit'].map((limit) => {
    const [name, value] = limit.split('=');
    if (name === 'fsize') return `--fsize=${value}`;
    if (name === 'no-file') return `--nofile=${value}`;
    return fail(`Invalid resource argument: ${limit}`);
  });
  const root = join(values['chroot-base-dir'], basename(program), id, 'root');
  if (!existsSync(root)) fail(`nothing was put into ${root}`);
  const visible = ['/usr', '/bin', '/lib', '/lib64', CHECKOUT, join(program, '..')];
  process.execve?.(
    '/usr/bin/env',
    [
      ...['env', '-i', `PATH=${SYSTEM_PATH}`],
      ...(netns === undefined ? [] : ['nsenter', `--net=${netns}`, '--']),
      ...['unshare', '--mount', '--propagation', 'slave', '--'],
      ...['sh', '-c', MAKE_JAIL, 'sh', root, `${uid}:${gid}`, ...visible, '--'],
      ...['prlimit', ...limits, '--'],
      ...['chroot', `--userspec=${uid}:${gid}`, '--groups=', root],
      ...[program, '--id', id, ...process.argv.slice(at + 1)],
    ],
    { PATH: SYSTEM_PATH },
  );
}

main();
