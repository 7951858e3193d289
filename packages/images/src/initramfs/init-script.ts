import { GUEST, GUEST_DRIVES } from '@torpor/protocol';
import { AGENT_DIRECTORY, agentCommand, MODPROBE } from '../agent-drive/layout.ts';
import { STORE_DIRECTORIES } from './mount-table.ts';

/** Files of the initramfs that /init reads. */
export const INIT_FILES = { mounts: 'mounts', devices: 'devices.cpio' } as const;

/** How long the guest waits for each of its drives: far longer than in any working boot. */
const DRIVE_TIMEOUT_SECONDS = 15;

/** Open files of a process: the kernel's 4,096 are too few for servers. The ceiling is fs.nr_open's default, as Docker has it. */
const MAX_OPEN_FILES = 1_048_576;

/**
 * The kernel's parameters of guests, by their paths below /proc/sys: what Debian's
 * procps and systemd set, and what Docker sets for containers.
 */
const SYSCTLS: Readonly<Record<string, string>> = {
  'kernel/hostname': 'sandbox',
  // Needed modules are loaded automatically, in any image: the program is on the agent drive.
  'kernel/modprobe': MODPROBE,
  'kernel/pid_max': '4194304',
  // As systemd sets it: the kernel's default, some 90 files per MiB, is less than one process
  // may open. Memory is the limit.
  'fs/file-max': '9223372036854775807',
  'fs/protected_hardlinks': '1',
  'fs/protected_symlinks': '1',
  'fs/protected_fifos': '1',
  'fs/protected_regular': '2',
  // A few file watchers use up the kernel's default of 128.
  'fs/inotify/max_user_instances': '1024',
  // The kernel's default depends on the memory: too few for the sources of one project in a
  // small guest. A watch costs 1 KB.
  'fs/inotify/max_user_watches': '524288',
  // Databases that map many files need more than the kernel's 65,530; as Fedora, Ubuntu and
  // systemd have it.
  'vm/max_map_count': '1048576',
  // A sandbox has a single owner: programs of any user may serve port 80, and ping.
  'net/ipv4/ip_unprivileged_port_start': '0',
  'net/ipv4/ping_group_range': '0 2147483647',
};

/**
 * The guest's init program, run by busybox's shell. It assembles the root file system and
 * executes tini, which runs envd:
 *
 * - the lower layers: the agent drive over the base image, both read-only;
 * - the upper layer: the sandbox's own disk. `noinit_itable` keeps ext4 from
 *   zeroing its inode tables in the background, `redirect_dir` lets a directory
 *   of the image be renamed.
 *
 * A failure is printed on the console in one line that starts with `torpor: boot failed`, and
 * the machine powers itself off. Every program costs milliseconds under emulation, so shell
 * built-ins are used where possible, one cpio creates all devices and links, and one mount
 * mounts everything in the mount table.
 */
export function initScript(moduleFiles: readonly string[]): string {
  return [prologue(), drives(moduleFiles), rootFileSystem(), system()].join('\n');
}

/** Mounts the file systems that the script reads, and defines its reporting functions. */
function prologue(): string {
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
`;
}

/** Waits for the drives, whose drivers are modules. */
function drives(moduleFiles: readonly string[]): string {
  return `insmod_all() {
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
`;
}

/** Mounts the layers and the kernel's file systems at /root. */
function rootFileSystem(): string {
  return `mount -t ext4 -o ro ${GUEST_DRIVES.base.device} /layers/base || fail "the base drive cannot be mounted"
mount -t ext4 -o ro ${GUEST_DRIVES.agent.device} /layers/agent || fail "the agent drive cannot be mounted"
mount -t ext4 -o noatime,noinit_itable ${GUEST_DRIVES.upper.device} /layers/upper || fail "the upper drive cannot be mounted"
[ -d /layers/upper/work ] || mkdir -p /layers/upper/root ${STORE_DIRECTORIES.join(' ')} /layers/upper/work || fail "the upper drive cannot be written"
mount -t overlay -o lowerdir=/layers/agent/root:/layers/base,upperdir=/layers/upper/root,workdir=/layers/upper/work,redirect_dir=on root /root || fail "the overlay cannot be mounted"
[ -x /root${AGENT_DIRECTORY}/bin/tini ] || fail "there is no agent on the agent drive"

for directory in dev proc sys run tmp etc root home; do
	[ -d /root/$directory ] || mkdir /root/$directory || fail "the directory /$directory cannot be made"
done
cd /dev && cpio -idu </${INIT_FILES.devices} 2>/dev/null || fail "the devices cannot be made"
cd /
mount -a -T /${INIT_FILES.mounts} || fail "the kernel's file systems cannot be mounted"
# Where /var/lock leads on Debian.
mkdir -m 1777 /root/run/lock || fail "/run/lock cannot be made"
mount --move /dev /root/dev && mount --move /proc /root/proc && mount --move /sys /root/sys || fail "the kernel's file systems cannot be moved"
uptime=/root/proc/uptime
# As systemd has it: what is mounted later shows in containers that are running.
mount --make-rshared /root || fail "the mounts cannot be shared"
# What envd reads and allocates counts for its own group from the start, and is kept for it.
cgroups=/root/sys/fs/cgroup
echo "+cpu +memory +pids" >$cgroups/cgroup.subtree_control
mkdir $cgroups/torpor && echo 0 >$cgroups/torpor/cgroup.procs || fail "the group of envd cannot be made"
[ -k /root/tmp ] || chmod 1777 /root/tmp
# Below /usr/lib on the agent drive; /lib is a directory of its own in older images.
[ -e /root/lib/modules ] || [ -h /root/lib ] || { mkdir -p /root/lib && ln -s ../usr/lib/modules /root/lib/modules; }
say "root"
`;
}

/** Sets kernel parameters, limits and the network, and executes tini. */
function system(): string {
  return `sysctl() {
	echo "$2" >"/root/proc/sys/$1" || say "the kernel parameter $1 cannot be set"
}
${Object.entries(SYSCTLS)
  .map(([name, value]) => `sysctl ${name} '${value}'`)
  .join('\n')}
ulimit -n ${MAX_OPEN_FILES} || say "the limit of open files cannot be raised"
ifconfig lo 127.0.0.1 up || fail "the loopback interface cannot be configured"
if [ -d /root/sys/class/net/${GUEST.interfaceName} ]; then
	echo 1 >/root/proc/sys/net/ipv6/conf/${GUEST.interfaceName}/disable_ipv6
	ifconfig ${GUEST.interfaceName} ${GUEST.address} netmask ${netmask(GUEST.prefixLength)} up || fail "the network cannot be configured"
	route add default gw ${GUEST.gateway} || fail "the default route cannot be set"
fi

say "starting envd"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
unset PWD OLDPWD SHLVL TERM up uptime deadline cgroups
cd /
exec /bin/switch_root /root ${agentCommand().join(' ')}
`;
}

/** The netmask of a prefix length in dotted form, for ifconfig. */
function netmask(prefixLength: number): string {
  const mask = (0xffffffff << (32 - prefixLength)) >>> 0;
  return [24, 16, 8, 0].map((shift) => (mask >>> shift) & 255).join('.');
}
