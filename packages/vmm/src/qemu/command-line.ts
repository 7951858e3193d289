import type { Accelerator, DriveSpec, MachineSpec, NetworkSpec } from '../driver.ts';
import { isAtLeast, type QemuInstallation, type QemuMachineType } from './find-qemu.ts';
import { runFiles } from './run-files.ts';

/** Where the guest's RAM comes from. */
export type MemoryBacking =
  /** The machine's own file, shared: what the guest writes is in the file. */
  | { readonly kind: 'shared'; readonly path: string }
  /** A shared file, which is not changed: what the guest writes is private to the process. */
  | { readonly kind: 'private'; readonly path: string };

export interface CommandLineOptions {
  readonly spec: MachineSpec;
  readonly qemu: QemuInstallation;
  readonly accelerator: Accelerator;
  readonly memory: MemoryBacking;
  /** Wait for a saved state instead of booting. */
  readonly incoming: boolean;
  /** Frequency of the host's time stamp counter; undefined where it is not known. */
  readonly tscKhz?: number | undefined;
}

/**
 * What the driver adds to a kernel command line: the console that is logged, and
 * that a panic or a reboot stops the machine at once (`-no-reboot`).
 */
const DRIVER_KERNEL_ARGUMENTS = ['console=ttyS0', 'reboot=t', 'panic=-1'];

/**
 * An emulated guest reads the host's time stamp counter, but can learn its frequency only from
 * the PIT. On a busy host that fails, and a microvm, which has no other timer, then waits for a
 * tick forever ("tsc: Unable to calibrate against PIT" is its last line). Without
 * `tsc=reliable` the guest distrusts the counter after two seconds and falls back to a clock of
 * 4 ms.
 */
function clockArguments({ accelerator, tscKhz }: CommandLineOptions): string[] {
  if (accelerator !== 'tcg' || tscKhz === undefined) return [];
  return [`tsc_early_khz=${tscKhz}`, 'tsc=reliable'];
}

/**
 * Cache of translated code, a bound: QEMU's own default is up to 1 GiB per
 * process. When it is full all of it is thrown away.
 */
const TRANSLATION_CACHE_MIB = 256;

/**
 * QEMU's arguments for a machine; pure. The same spec gives the same devices in
 * the same order, which a saved state depends on. The vCPUs do not run until
 * `cont`, so nothing that the guest prints is lost.
 */
export function qemuArguments(options: CommandLineOptions): string[] {
  const { spec } = options;
  const files = runFiles(spec.runDirectory);
  return [
    ...['-name', `${spec.id},debug-threads=on`],
    ...['-no-user-config', '-nodefaults', '-display', 'none', '-no-reboot', '-S'],
    ...['-machine', machine(options)],
    ...processor(options),
    ...['-object', memoryBackend(options)],
    ...privileges(options),
    ...socket('control', files.control),
    ...['-mon', 'chardev=control,mode=control'],
    ...socket('console', files.console),
    ...['-serial', 'chardev:console'],
    ...['-kernel', spec.kernelPath, '-initrd', spec.initramfsPath],
    ...['-append', kernelCommandLine(options)],
    ...spec.drives.flatMap((drive) => driveArguments(drive, options)),
    ...(spec.network === undefined ? [] : networkArguments(spec.network, options)),
    ...['-object', json({ 'qom-type': 'rng-builtin', id: 'entropy' })],
    ...['-device', json({ driver: virtio('rng', options), id: 'rng', rng: 'entropy' })],
    ...(options.incoming ? ['-incoming', 'defer'] : []),
  ];
}

function kernelCommandLine(options: CommandLineOptions): string {
  const ours = [...DRIVER_KERNEL_ARGUMENTS, ...clockArguments(options)];
  return [...ours, ...options.spec.kernelArguments].join(' ');
}

/**
 * A guest with hardware-reduced ACPI, as a microvm has, never initialises the old interrupt
 * controller. In emulation the PIT ticks from the reset on, and if the guest enables interrupts
 * before it has masked that line, the tick is taken for vector 0: "divide error", and the
 * kernel crashes before it has printed anything. Nothing else uses the PIC.
 */
function machine({ qemu, accelerator }: CommandLineOptions): string {
  const common = 'memory-backend=ram,dump-guest-core=off';
  const type = machineOf(qemu.machineType, accelerator);
  return qemu.machineType === 'microvm'
    ? `${type},acpi=on,${common}`
    : `${type},usb=off,vmport=off,smbus=off,sata=off,${common}`;
}

/** The machine type with the options that decide which saved states it can load. */
export function machineOf(type: QemuMachineType, accelerator: Accelerator): string {
  return type === 'microvm' && accelerator === 'tcg' ? `${type},pic=off` : type;
}

function processor({ spec, accelerator }: CommandLineOptions): string[] {
  return [
    ...(accelerator === 'kvm'
      ? ['-accel', 'kvm', '-cpu', 'host']
      : ['-accel', `tcg,thread=multi,tb-size=${TRANSLATION_CACHE_MIB}`, '-cpu', 'max']),
    ...['-smp', String(spec.vcpus), '-m', `${spec.memoryMiB}M`],
  ];
}

function memoryBackend({ spec, qemu, memory }: CommandLineOptions): string {
  const isPrivate = memory.kind === 'private';
  return json({
    'qom-type': 'memory-backend-file',
    id: 'ram',
    size: spec.memoryMiB * 1024 * 1024,
    'mem-path': memory.path,
    share: !isPrivate,
    dump: false,
    merge: false,
    // The file is opened for reading only, and its private mapping is RAM all the same
    // (docs/system/vm-templating.rst).
    ...(isPrivate && isAtLeast(qemu.version, 8, 2) ? { readonly: true, rom: 'off' } : {}),
  });
}

/**
 * The seccomp filter starts before QEMU changes its user, so set*uid must stay allowed in that
 * case; without capabilities and with no_new_privs, which the filter sets, it gains nothing
 * then.
 */
function privileges({ spec, qemu }: CommandLineOptions): string[] {
  const filter = (elevate: string) =>
    `on,obsolete=deny,elevateprivileges=${elevate},spawn=deny,resourcecontrol=deny`;
  if (spec.user === undefined) return ['-sandbox', filter('deny')];
  const ids = `${spec.user.uid}:${spec.user.gid}`;
  return [
    ...['-sandbox', filter('allow')],
    ...(isAtLeast(qemu.version, 9, 1) ? ['-run-with', `user=${ids}`] : ['-runas', ids]),
  ];
}

function socket(id: string, path: string): string[] {
  return ['-chardev', `socket,id=${id},path=${path.replaceAll(',', ',,')},server=on,wait=off`];
}

/**
 * `cache=writeback` is the block layer's default: the guest's flushes reach the disk, and the
 * host's page cache is shared by all machines. Zeroes and discarded blocks become holes, so
 * that a disk layer has what was written and nothing else. Read-only files are locked for
 * readers, so any number of machines can share one.
 */
function driveArguments(drive: DriveSpec, options: CommandLineOptions): string[] {
  const node = {
    driver: 'raw',
    'node-name': drive.id,
    'read-only': drive.readOnly,
    ...(drive.readOnly ? {} : { discard: 'unmap', 'detect-zeroes': 'unmap' }),
    file: {
      driver: 'file',
      filename: drive.path,
      ...(drive.readOnly ? {} : { discard: 'unmap' }),
    },
  };
  const device = {
    driver: virtio('blk', options),
    id: `drive-${drive.id}`,
    drive: drive.id,
    serial: drive.id,
  };
  return ['-blockdev', json(node), '-device', json(device)];
}

function networkArguments(network: NetworkSpec, options: CommandLineOptions): string[] {
  const device = {
    driver: virtio('net', options),
    id: 'nic',
    netdev: 'net',
    mac: network.macAddress,
    // No boot from the network: saves a ROM in the guest's memory.
    ...(options.qemu.machineType === 'q35' ? { romfile: '' } : {}),
  };
  return [
    ...['-netdev', `tap,id=net,ifname=${network.tapDevice},script=no,downscript=no`],
    ...['-device', json(device)],
  ];
}

function virtio(kind: 'blk' | 'net' | 'rng', { qemu }: CommandLineOptions): string {
  return `virtio-${kind}-${qemu.machineType === 'microvm' ? 'device' : 'pci'}`;
}

function json(value: Readonly<Record<string, unknown>>): string {
  return JSON.stringify(value);
}
