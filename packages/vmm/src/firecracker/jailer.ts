import { NETNS_DIRECTORY } from '@torpor/linux';
import type { MachineSpec } from '../driver.ts';
import type { FirecrackerInstallation } from './find-firecracker.ts';
import { INSIDE, machineLayout } from './machine-layout.ts';

/** A file or directory of the host that is bound to a name in the machine's root. */
export interface Binding {
  readonly source: string;
  /** On the host: an existing file or directory below the machine's root. */
  readonly target: string;
  readonly readOnly: boolean;
}

export interface LaunchOptions {
  readonly spec: MachineSpec;
  /** The machine's root directory on the host. */
  readonly root: string;
  readonly firecracker: FirecrackerInstallation;
  readonly bindings: readonly Binding[];
  /** The largest file that Firecracker may write, in bytes: guest RAM in a snapshot, or a disk. */
  readonly maxFileBytes: number;
  /** Parent of the machine's cgroup (v2); needs the jailer. */
  readonly cgroupParent?: string | undefined;
}

/** A program with its arguments. Each program executes the next one, so the pid stays the same. */
export interface LaunchCommand {
  readonly program: string;
  readonly args: readonly string[];
  /** The namespace that the caller must enter first. None with the jailer, which enters it itself. */
  readonly namespace?: string;
}

/** Files that Firecracker may have open at once: the jailer's own default. */
const MAX_OPEN_FILES = 2048;
/** Memory of Firecracker itself, with what the kernel accounts to it, beyond the guest's. */
const VMM_OVERHEAD_MIB = 128;

/**
 * Makes the bind mounts in its arguments, in a mount namespace of its own, then executes the
 * program after `--`. If a user's ids are given, device nodes owned by that user are made for
 * the devices that Firecracker opens. The arguments are positional parameters: nothing is
 * spliced into the script.
 */
const BIND_AND_BECOME = `set -e
owner=$1 devices=$2
shift 2
if [ -n "$owner" ]; then
	mount -n -t tmpfs -o mode=755,size=64k devices "$devices"
	for device in /dev/kvm /dev/net/tun /dev/userfaultfd; do
		[ -e "$device" ] || continue
		node=$devices/\${device##*/}
		cp -a "$device" "$node"
		chown "$owner" "$node"
		chmod 600 "$node"
		mount -n --bind "$node" "$device"
	done
fi
while [ "$1" != -- ]; do
	mount -n -o "bind,$1" "$2" "$3"
	shift 3
done
shift
exec "$@"`;

/**
 * How Firecracker is started for a machine; pure. With a jailer: in a chroot, a cgroup and a
 * user of its own. Without: with the same paths, no privileges and the same limits, but with
 * access to the host's file system.
 */
export function launchCommand(options: LaunchOptions): LaunchCommand {
  const { spec, root, firecracker, bindings } = options;
  const jailed = firecracker.jailerPath !== undefined;
  const owner = jailed || spec.user === undefined ? '' : `${spec.user.uid}:${spec.user.gid}`;
  const binds = bindings.flatMap(({ source, target, readOnly }) => [
    readOnly ? 'ro' : 'rw',
    source,
    target,
  ]);
  return {
    program: 'unshare',
    args: [
      ...['--mount', '--propagation', 'private', '--'],
      ...['sh', '-c', BIND_AND_BECOME, 'sh', owner, `${root}/devices`],
      ...binds,
      '--',
      ...(firecracker.jailerPath === undefined
        ? unjailed(options)
        : [firecracker.jailerPath, ...jailerArguments(options)]),
    ],
    ...(jailed || spec.network === undefined ? {} : { namespace: spec.network.namespace }),
  };
}

/** The jailer's own arguments (docs/jailer.md of Firecracker), then Firecracker's; pure. */
export function jailerArguments(options: LaunchOptions): string[] {
  const { spec, firecracker, cgroupParent } = options;
  const { uid, gid } = spec.user ?? { uid: 0, gid: 0 };
  return [
    ...['--id', spec.id, '--exec-file', firecracker.path],
    ...['--uid', String(uid), '--gid', String(gid)],
    ...['--chroot-base-dir', machineLayout(spec.runDirectory).jail],
    ...(spec.network === undefined
      ? []
      : ['--netns', `${NETNS_DIRECTORY}/${spec.network.namespace}`]),
    ...(cgroupParent === undefined ? [] : cgroupArguments(spec, cgroupParent)),
    ...['--resource-limit', `fsize=${options.maxFileBytes}`],
    ...['--resource-limit', `no-file=${MAX_OPEN_FILES}`],
    ...['--', ...firecrackerArguments()],
  ];
}

function cgroupArguments(spec: MachineSpec, parent: string): string[] {
  const memoryBytes = (spec.memoryMiB + VMM_OVERHEAD_MIB) * 1024 * 1024;
  return [
    ...['--cgroup-version', '2', '--parent-cgroup', parent],
    ...['--cgroup', `memory.max=${memoryBytes}`, '--cgroup', 'memory.swap.max=0'],
    ...['--cgroup', `cpu.max=${spec.vcpus * 100_000} 100000`],
  ];
}

/** Without a jailer. Seccomp filters are Firecracker's own in both cases. */
function unjailed({ spec, firecracker, maxFileBytes }: LaunchOptions): string[] {
  const { user } = spec;
  return [
    ...['prlimit', `--fsize=${maxFileBytes}`, `--nofile=${MAX_OPEN_FILES}`, '--'],
    ...(user === undefined
      ? []
      : [
          ...['setpriv', `--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups'],
          ...['--inh-caps=-all', '--bounding-set=-all', '--no-new-privs', '--'],
        ]),
    ...[firecracker.path, '--id', spec.id, ...firecrackerArguments()],
  ];
}

/** The jailer adds `--id` itself. */
function firecrackerArguments(): string[] {
  return [
    ...['--api-sock', INSIDE.control, '--log-path', INSIDE.log],
    // The level in each line distinguishes its errors from its routine warnings.
    ...['--level', 'Warning', '--show-level'],
  ];
}
