import { GUEST, GUEST_DRIVES } from '@torpor/protocol';
import { AGENT_DIRECTORY, agentCommand } from '../agent-drive/layout.ts';

/** How long the guest waits for each of its drives: far beyond any boot that works. */
const DRIVE_TIMEOUT_SECONDS = 15;

/** The kernel's 128 are used up by a few watching tools at once; as systemd and container hosts set it. */
const INOTIFY_INSTANCES = 1024;
/** The kernel derives its own from the memory: few for the sources of one project in a small guest. A watch costs 1 KB. */
const INOTIFY_WATCHES = 524_288;

/**
 * The program with which the guest starts, run by busybox's shell. It puts the
 * root file system together (DESIGN §4) and hands over to tini, which runs envd:
 *
 * - the lower layers: the agent drive over the base image, both read-only;
 * - the upper layer: the sandbox's own disk. `noinit_itable` keeps ext4 from
 *   zeroing its inode tables in the background, `redirect_dir` lets a directory
 *   of the image be renamed.
 *
 * Whatever fails is said on the console in one line that starts with
 * `torpor: boot failed`, and the machine powers itself off. Every program costs
 * milliseconds under emulation, so the shell does by itself what it can.
 */
export function initScript(moduleFiles: readonly string[]): string {
  return `#!/bin/sh
mount -t devtmpfs -o mode=0755,nosuid devtmpfs /dev
exec </dev/console >/dev/console 2>&1
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys

uptime=/proc/uptime
say() {
	read -r up _ <$uptime
	echo "torpor: [$up] $1"
}
fail() {
	say "boot failed: $1"
	poweroff -f
	reboot -f
	while :; do sleep 3600; done
}
say "init"

insmod_all() {
	for module; do
		insmod "/modules/$module" || fail "the kernel module $module cannot be loaded"
	done
}
insmod_all ${moduleFiles.join(' ')}

wait_for() {
	read -r up _ <$uptime
	deadline=$((\${up%%.*} + ${DRIVE_TIMEOUT_SECONDS}))
	until [ -b "$1" ]; do
		read -r up _ <$uptime
		[ \${up%%.*} -lt $deadline ] || fail "the $2 drive $1 did not appear"
		usleep 50000
	done
}
wait_for ${GUEST_DRIVES.base.device} base
wait_for ${GUEST_DRIVES.agent.device} agent
wait_for ${GUEST_DRIVES.upper.device} upper
say "drives"

mount -t ext4 -o ro ${GUEST_DRIVES.base.device} /layers/base || fail "the base drive cannot be mounted"
mount -t ext4 -o ro ${GUEST_DRIVES.agent.device} /layers/agent || fail "the agent drive cannot be mounted"
mount -t ext4 -o noatime,noinit_itable ${GUEST_DRIVES.upper.device} /layers/upper || fail "the upper drive cannot be mounted"
[ -d /layers/upper/work ] || mkdir -p /layers/upper/root /layers/upper/work || fail "the upper drive cannot be written"
mount -t overlay -o lowerdir=/layers/agent/root:/layers/base,upperdir=/layers/upper/root,workdir=/layers/upper/work,redirect_dir=on root /root || fail "the overlay cannot be mounted"
[ -x /root${AGENT_DIRECTORY}/bin/tini ] || fail "there is no agent on the agent drive"

for directory in dev proc sys run tmp etc root home; do
	[ -d /root/$directory ] || mkdir /root/$directory || fail "the directory /$directory cannot be made"
done
mount --move /dev /root/dev && mount --move /proc /root/proc && mount --move /sys /root/sys || fail "the kernel's file systems cannot be moved"
uptime=/root/proc/uptime
mkdir -m 1777 /root/dev/shm
mkdir -m 755 /root/dev/pts
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /root/dev/pts || fail "/dev/pts cannot be mounted"
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /root/dev/shm || fail "/dev/shm cannot be mounted"
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /root/run || fail "/run cannot be mounted"
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate cgroup2 /root/sys/fs/cgroup || fail "cgroups cannot be mounted"
[ -k /root/tmp ] || chmod 1777 /root/tmp
say "root"

echo sandbox >/root/proc/sys/kernel/hostname
echo "0 2147483647" >/root/proc/sys/net/ipv4/ping_group_range
echo ${INOTIFY_INSTANCES} >/root/proc/sys/fs/inotify/max_user_instances
echo ${INOTIFY_WATCHES} >/root/proc/sys/fs/inotify/max_user_watches
ifconfig lo 127.0.0.1 up || fail "the loopback interface cannot be configured"
if [ -d /root/sys/class/net/${GUEST.interfaceName} ]; then
	echo 1 >/root/proc/sys/net/ipv6/conf/${GUEST.interfaceName}/disable_ipv6
	ifconfig ${GUEST.interfaceName} ${GUEST.address} netmask ${netmask(GUEST.prefixLength)} up || fail "the network cannot be configured"
	route add default gw ${GUEST.gateway} || fail "the default route cannot be set"
fi

say "starting envd"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
unset PWD OLDPWD SHLVL TERM up uptime deadline
cd /
exec /bin/switch_root /root ${agentCommand().join(' ')}
`;
}

/** The netmask of a prefix length in dotted form, as ifconfig wants it. */
function netmask(prefixLength: number): string {
  const mask = (0xffffffff << (32 - prefixLength)) >>> 0;
  return [24, 16, 8, 0].map((shift) => (mask >>> shift) & 255).join('.');
}
