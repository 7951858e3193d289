import { expect, test } from 'vitest';
import type { MachineSpec } from '../driver.ts';
import { bootRequests, checkFirecrackerSpec, loadRequest } from './requests.ts';
import { featuresOf } from './version.ts';

const SPEC: MachineSpec = {
  id: 'sb-one',
  vcpus: 2,
  memoryMiB: 512,
  kernelPath: '/k/vmlinux',
  initramfsPath: '/k/initramfs',
  kernelArguments: ['quiet', 'torpor.x=1'],
  drives: [
    { id: 'base-image', path: '/i/base.ext4', readOnly: true },
    { id: 'upper', path: '/s/upper.ext4', readOnly: false },
  ],
  network: { namespace: 'tp-3', tapDevice: 'tap0', macAddress: '02:fc:00:00:00:05' },
  runDirectory: '/run/t',
  memoryFile: '/dev/shm/one',
  console: { path: '/run/t/console.log', maxBytes: 65536 },
};
const KERNEL = '6.1.0';

test('no request has a path on the host', () => {
  const told = JSON.stringify(bootRequests(SPEC));
  for (const path of ['/k/', '/i/', '/s/', '/run/', '/dev/'])
    expect(told).not.toContain(`"${path}`);
});

test("a drive's id is one that Firecracker allows", () => {
  expect(bootRequests(SPEC)[2]).toMatchObject({
    path: '/drives/base_image',
    body: { drive_id: 'base_image', path_on_host: 'drives/base-image' },
  });
});

test('a load has the fields of the version, and no other', () => {
  const memory = { kind: 'userfaultfd', socketPath: '/run/t/pages.sock' } as const;
  const bodyFor = (version: string) =>
    loadRequest(SPEC, memory, featuresOf(version, KERNEL)).body as object;
  const always = {
    snapshot_path: 'loaded/state',
    mem_backend: { backend_type: 'Uffd', backend_path: 'loaded/pages.sock' },
    resume_vm: false,
  };
  const network_overrides = [{ iface_id: 'eth0', host_dev_name: 'tap0' }];
  expect(bodyFor('1.8.0')).toEqual({ ...always, enable_diff_snapshots: true });
  expect(bodyFor('1.12.0')).toEqual({
    ...always,
    enable_diff_snapshots: true,
    network_overrides,
  });
  expect(bodyFor('1.13.1')).toEqual({ ...always, track_dirty_pages: true, network_overrides });
  expect(bodyFor('1.16.1')).toEqual({
    ...always,
    track_dirty_pages: true,
    network_overrides,
    clock_realtime: true,
  });
});

test('a machine without a network overrides none', () => {
  const { network: _, ...spec } = SPEC;
  const memory = { kind: 'file', path: '/b/memory' } as const;
  expect(loadRequest(spec, memory, featuresOf('1.16.1', KERNEL)).body).toEqual({
    snapshot_path: 'loaded/state',
    mem_backend: { backend_type: 'File', backend_path: 'loaded/memory' },
    resume_vm: false,
    track_dirty_pages: true,
    clock_realtime: true,
  });
  expect(bootRequests(spec).some(({ path }) => path.startsWith('/network'))).toBe(false);
});

test('a spec beyond the limits of Firecracker is refused', () => {
  expect(() => checkFirecrackerSpec(SPEC)).not.toThrow();
  expect(() => checkFirecrackerSpec({ ...SPEC, vcpus: 33 })).toThrow(/at most 32 vCPUs/);
  const kernelArguments = ['x'.repeat(2000)];
  expect(() => checkFirecrackerSpec({ ...SPEC, kernelArguments })).toThrow(/command line/);
});
