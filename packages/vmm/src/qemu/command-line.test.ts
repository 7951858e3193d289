import { expect, test } from 'vitest';
import type { MachineSpec } from '../driver.ts';
import { type CommandLineOptions, qemuArguments } from './command-line.ts';

const SPEC: MachineSpec = {
  id: 'sb-one',
  vcpus: 2,
  memoryMiB: 512,
  kernelPath: '/k/bzImage',
  initramfsPath: '/k/initramfs',
  kernelArguments: ['quiet', 'torpor.x=1'],
  drives: [
    { id: 'base', path: '/i/base,1.ext4', readOnly: true },
    { id: 'upper', path: '/s/upper.ext4', readOnly: false },
  ],
  network: { namespace: 'tp-3', tapDevice: 'tap0', macAddress: '02:fc:00:00:00:05' },
  runDirectory: '/run/t,1',
  memoryFile: '/dev/shm/one',
  console: { path: '/run/t,1/console.log', maxBytes: 65536 },
  user: { uid: 61001, gid: 61002 },
};

const MICROVM: CommandLineOptions = {
  spec: SPEC,
  qemu: { path: '/usr/bin/qemu', version: '10.0.2', machineType: 'microvm' },
  accelerator: 'tcg',
  memory: { kind: 'shared', path: '/dev/shm/one' },
  incoming: false,
};

/** One line for each option with its value, so that a difference can be read. */
function lines(options: CommandLineOptions): string[] {
  return qemuArguments(options)
    .join('\n')
    .replace(/\n(?!-)/g, ' ')
    .split('\n');
}

test('a microvm under pure emulation, unprivileged', () => {
  expect(lines(MICROVM)).toEqual([
    '-name sb-one,debug-threads=on',
    '-no-user-config',
    '-nodefaults',
    '-display none',
    '-no-reboot',
    '-S',
    '-machine microvm,pic=off,acpi=on,memory-backend=ram,dump-guest-core=off',
    '-accel tcg,thread=multi,tb-size=256',
    '-cpu max',
    '-smp 2',
    '-m 512M',
    '-object {"qom-type":"memory-backend-file","id":"ram","size":536870912,"mem-path":"/dev/shm/one","share":true,"dump":false,"merge":false}',
    '-sandbox on,obsolete=deny,elevateprivileges=allow,spawn=deny,resourcecontrol=deny',
    '-run-with user=61001:61002',
    '-chardev socket,id=control,path=/run/t,,1/qmp.sock,server=on,wait=off',
    '-mon chardev=control,mode=control',
    '-chardev socket,id=console,path=/run/t,,1/console.sock,server=on,wait=off',
    '-serial chardev:console',
    '-kernel /k/bzImage',
    '-initrd /k/initramfs',
    '-append console=ttyS0 reboot=t panic=-1 quiet torpor.x=1',
    '-blockdev {"driver":"raw","node-name":"base","read-only":true,"file":{"driver":"file","filename":"/i/base,1.ext4"}}',
    '-device {"driver":"virtio-blk-device","id":"drive-base","drive":"base","serial":"base"}',
    '-blockdev {"driver":"raw","node-name":"upper","read-only":false,"discard":"unmap","detect-zeroes":"unmap","file":{"driver":"file","filename":"/s/upper.ext4","discard":"unmap"}}',
    '-device {"driver":"virtio-blk-device","id":"drive-upper","drive":"upper","serial":"upper"}',
    '-netdev tap,id=net,ifname=tap0,script=no,downscript=no',
    '-device {"driver":"virtio-net-device","id":"nic","netdev":"net","mac":"02:fc:00:00:00:05"}',
    '-object {"qom-type":"rng-builtin","id":"entropy"}',
    '-device {"driver":"virtio-rng-device","id":"rng","rng":"entropy"}',
  ]);
});

test('q35 on QEMU 7.2 under KVM, as the user of the caller, without a network', () => {
  const { network: _network, user: _user, ...spec } = SPEC;
  const options: CommandLineOptions = {
    ...MICROVM,
    spec,
    qemu: { path: '/usr/bin/qemu', version: '7.2.22', machineType: 'q35' },
    accelerator: 'kvm',
  };
  expect(lines(options)).toEqual([
    '-name sb-one,debug-threads=on',
    '-no-user-config',
    '-nodefaults',
    '-display none',
    '-no-reboot',
    '-S',
    '-machine q35,usb=off,vmport=off,smbus=off,sata=off,memory-backend=ram,dump-guest-core=off',
    '-accel kvm',
    '-cpu host',
    '-smp 2',
    '-m 512M',
    '-object {"qom-type":"memory-backend-file","id":"ram","size":536870912,"mem-path":"/dev/shm/one","share":true,"dump":false,"merge":false}',
    '-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
    '-chardev socket,id=control,path=/run/t,,1/qmp.sock,server=on,wait=off',
    '-mon chardev=control,mode=control',
    '-chardev socket,id=console,path=/run/t,,1/console.sock,server=on,wait=off',
    '-serial chardev:console',
    '-kernel /k/bzImage',
    '-initrd /k/initramfs',
    '-append console=ttyS0 reboot=t panic=-1 quiet torpor.x=1',
    '-blockdev {"driver":"raw","node-name":"base","read-only":true,"file":{"driver":"file","filename":"/i/base,1.ext4"}}',
    '-device {"driver":"virtio-blk-pci","id":"drive-base","drive":"base","serial":"base"}',
    '-blockdev {"driver":"raw","node-name":"upper","read-only":false,"discard":"unmap","detect-zeroes":"unmap","file":{"driver":"file","filename":"/s/upper.ext4","discard":"unmap"}}',
    '-device {"driver":"virtio-blk-pci","id":"drive-upper","drive":"upper","serial":"upper"}',
    '-object {"qom-type":"rng-builtin","id":"entropy"}',
    '-device {"driver":"virtio-rng-pci","id":"rng","rng":"entropy"}',
  ]);
});

test('q35 with a network has no boot ROM, and an old QEMU drops privileges by its old option', () => {
  const qemu = { path: '/usr/bin/qemu', version: '7.2.22', machineType: 'q35' } as const;
  const found = lines({ ...MICROVM, qemu });
  expect(found).toContain(
    '-device {"driver":"virtio-net-pci","id":"nic","netdev":"net","mac":"02:fc:00:00:00:05","romfile":""}',
  );
  expect(found).toContain('-runas 61001:61002');
});

test('a restore differs from a boot in nothing but the memory and that it waits for the state', () => {
  const memory = { kind: 'private', path: '/b/memory' } as const;
  const booted = lines(MICROVM);
  const restored = lines({ ...MICROVM, memory, incoming: true });
  expect(restored.filter((line) => !booted.includes(line))).toEqual([
    '-object {"qom-type":"memory-backend-file","id":"ram","size":536870912,"mem-path":"/b/memory","share":false,"dump":false,"merge":false,"readonly":true,"rom":"off"}',
    '-incoming defer',
  ]);
});

test('an emulated guest gets the frequency of the time stamp counter on its command line, one under KVM does not', () => {
  const appended = (options: CommandLineOptions) =>
    lines(options).find((line) => line.startsWith('-append '));
  expect(appended({ ...MICROVM, tscKhz: 2_499_998 })).toContain(
    ' tsc_early_khz=2499998 tsc=reliable ',
  );
  expect(appended({ ...MICROVM, tscKhz: 2_499_998, accelerator: 'kvm' })).not.toContain('tsc');
});
