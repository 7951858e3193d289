import { expect, test } from 'vitest';
import type { MachineSpec } from '../driver.ts';
import { jailerArguments, type LaunchOptions, launchCommand } from './jailer.ts';
import { rootDirectory } from './machine-layout.ts';

const SPEC: MachineSpec = {
  id: 'sb-one',
  vcpus: 2,
  memoryMiB: 512,
  kernelPath: '/k/vmlinux',
  initramfsPath: '/k/initramfs',
  kernelArguments: [],
  drives: [],
  network: { namespace: 'tp-3', tapDevice: 'tap0', macAddress: '02:fc:00:00:00:05' },
  runDirectory: '/run/t',
  memoryFile: '/dev/shm/one',
  console: { path: '/run/t/console.log', maxBytes: 65536 },
  user: { uid: 61001, gid: 61002 },
};
const FIRECRACKER = { path: '/opt/firecracker-v1.16.1-x86_64', version: '1.16.1' };
const JAILED = { ...FIRECRACKER, jailerPath: '/opt/jailer' };

function options(change: Partial<LaunchOptions> = {}): LaunchOptions {
  return {
    spec: SPEC,
    root: '/run/t/jail/firecracker-v1.16.1-x86_64/sb-one/root',
    firecracker: FIRECRACKER,
    bindings: [
      { source: '/i/base 1.ext4', target: '/run/t/root/drives/base', readOnly: true },
      { source: '/s/upper', target: '/run/t/root/drives/upper', readOnly: false },
    ],
    maxFileBytes: 1_000_000,
    ...change,
  };
}

/** What follows the script. */
function parameters(command: { readonly args: readonly string[] }): readonly string[] {
  return command.args.slice(command.args.indexOf('-c') + 2);
}

test('the machine has its root where the jailer makes it', () => {
  expect(rootDirectory(SPEC, JAILED)).toBe(options().root);
});

test('with the jailer', () => {
  expect(
    jailerArguments(options({ firecracker: JAILED }))
      .join(' ')
      .split(/ (?=--)/),
  ).toEqual([
    '--id sb-one',
    '--exec-file /opt/firecracker-v1.16.1-x86_64',
    '--uid 61001',
    '--gid 61002',
    '--chroot-base-dir /run/t/jail',
    '--netns /run/netns/tp-3',
    '--resource-limit fsize=1000000',
    '--resource-limit no-file=2048',
    '--',
    '--api-sock run/api.sock',
    '--log-path log',
    '--level Warning',
    '--show-level',
  ]);
});

test('with the jailer and a cgroup', () => {
  const args = jailerArguments(options({ firecracker: JAILED, cgroupParent: 'torpor' }));
  const at = args.indexOf('--cgroup-version');
  expect(args.slice(at, at + 10)).toEqual([
    '--cgroup-version',
    '2',
    '--parent-cgroup',
    'torpor',
    '--cgroup',
    `memory.max=${(512 + 128) * 1024 * 1024}`,
    '--cgroup',
    'memory.swap.max=0',
    '--cgroup',
    'cpu.max=200000 100000',
  ]);
});

test('the jailer enters the network namespace and makes the devices itself', () => {
  const command = launchCommand(options({ firecracker: JAILED }));
  expect(command.namespace).toBeUndefined();
  expect(command.program).toBe('unshare');
  expect(command.args.slice(0, 4)).toEqual(['--mount', '--propagation', 'private', '--']);
  expect(parameters(command).slice(0, 12)).toEqual([
    'sh',
    '',
    '/run/t/jail/firecracker-v1.16.1-x86_64/sb-one/root/devices',
    'ro',
    '/i/base 1.ext4',
    '/run/t/root/drives/base',
    'rw',
    '/s/upper',
    '/run/t/root/drives/upper',
    '--',
    '/opt/jailer',
    '--id',
  ]);
});

test('without the jailer, unprivileged and with the same limits', () => {
  const command = launchCommand(options());
  expect(command.namespace).toBe('tp-3');
  const [, owner, , ...rest] = parameters(command);
  expect(owner).toBe('61001:61002');
  expect(rest.slice(rest.indexOf('--') + 1)).toEqual([
    ...['prlimit', '--fsize=1000000', '--nofile=2048', '--'],
    ...['setpriv', '--reuid=61001', '--regid=61002', '--clear-groups'],
    ...['--inh-caps=-all', '--bounding-set=-all', '--no-new-privs', '--'],
    ...['/opt/firecracker-v1.16.1-x86_64', '--id', 'sb-one'],
    ...['--api-sock', 'run/api.sock', '--log-path', 'log', '--level', 'Warning', '--show-level'],
  ]);
});

test('without a user it keeps the one of the caller', () => {
  const { user: _, ...spec } = SPEC;
  const command = launchCommand(options({ spec }));
  expect(parameters(command)[1]).toBe('');
  expect(command.args).not.toContain('setpriv');
  const jailed = jailerArguments(options({ spec, firecracker: JAILED }));
  expect(jailed.slice(4, 8)).toEqual(['--uid', '0', '--gid', '0']);
});
