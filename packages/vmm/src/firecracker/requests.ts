import { TorporError } from '@torpor/protocol';
import type { MachineSpec, RestoreSource } from '../driver.ts';
import type { ApiRequest } from './api-types.ts';
import { INSIDE } from './machine-layout.ts';
import type { ApiFeatures } from './version.ts';

/**
 * What the driver adds to a kernel command line. A guest that reboots or panics stops its VMM,
 * which emulates only the reset of an i8042; the guest is kept from probing for the rest.
 * `clock_realtime` adjusts only KVM's clock, so the guest must use that one.
 */
const DRIVER_KERNEL_ARGUMENTS = [
  'console=ttyS0',
  'reboot=k',
  'panic=-1',
  'i8042.noaux',
  'i8042.nomux',
  'i8042.dumbkbd',
  'swiotlb=noforce',
  'clocksource=kvm-clock',
];

/** The guest's only network interface. */
const INTERFACE_ID = 'eth0';
const MAX_VCPUS = 32;
/** Firecracker's limit for the given command line; it appends a little itself. */
const MAX_KERNEL_COMMAND_LINE_BYTES = 2048 - 256;

/** The calls that configure a new Firecracker for a spec and boot it, in order; pure. */
export function bootRequests(spec: MachineSpec): ApiRequest[] {
  const { network } = spec;
  return [
    {
      method: 'PUT',
      path: '/boot-source',
      body: {
        kernel_image_path: INSIDE.kernel,
        initrd_path: INSIDE.initramfs,
        boot_args: [...DRIVER_KERNEL_ARGUMENTS, ...spec.kernelArguments].join(' '),
      },
    },
    {
      method: 'PUT',
      path: '/machine-config',
      body: {
        vcpu_count: spec.vcpus,
        mem_size_mib: spec.memoryMiB,
        smt: false,
        track_dirty_pages: true,
      },
    },
    ...spec.drives.map((drive): ApiRequest => {
      const id = apiId(drive.id);
      return {
        method: 'PUT',
        path: `/drives/${id}`,
        body: {
          drive_id: id,
          path_on_host: INSIDE.drive(drive.id),
          is_root_device: false,
          is_read_only: drive.readOnly,
          cache_type: drive.readOnly ? 'Unsafe' : 'Writeback',
        },
      };
    }),
    ...(network === undefined
      ? []
      : [
          {
            method: 'PUT',
            path: `/network-interfaces/${INTERFACE_ID}`,
            body: {
              iface_id: INTERFACE_ID,
              host_dev_name: network.tapDevice,
              guest_mac: network.macAddress,
            },
          } as const,
        ]),
    { method: 'PUT', path: '/entropy', body: {} },
    { method: 'PUT', path: '/actions', body: { action_type: 'InstanceStart' } },
  ];
}

/** The call that loads a saved machine into a new Firecracker, paused; pure. */
export function loadRequest(
  spec: MachineSpec,
  memory: RestoreSource['memory'],
  features: ApiFeatures,
): ApiRequest {
  return {
    method: 'PUT',
    path: '/snapshot/load',
    body: {
      snapshot_path: INSIDE.loadedState,
      mem_backend:
        memory.kind === 'file'
          ? { backend_type: 'File', backend_path: INSIDE.loadedMemory }
          : { backend_type: 'Uffd', backend_path: INSIDE.pageServer },
      resume_vm: false,
      ...(features.tracksDirtyPagesOnLoad
        ? { track_dirty_pages: true }
        : { enable_diff_snapshots: true }),
      ...(features.networkOverrides && spec.network !== undefined
        ? {
            network_overrides: [{ iface_id: INTERFACE_ID, host_dev_name: spec.network.tapDevice }],
          }
        : {}),
      ...(features.clockRealtime ? { clock_realtime: true } : {}),
    },
  };
}

/** Checks limits of Firecracker that are below those of other VMMs. Throws `invalid_request`. */
export function checkFirecrackerSpec(spec: MachineSpec): void {
  if (spec.vcpus > MAX_VCPUS) {
    const what = `Firecracker gives a machine at most ${MAX_VCPUS} vCPUs, not ${spec.vcpus}.`;
    throw new TorporError('invalid_request', what);
  }
  const commandLine = [...DRIVER_KERNEL_ARGUMENTS, ...spec.kernelArguments].join(' ');
  if (Buffer.byteLength(commandLine) > MAX_KERNEL_COMMAND_LINE_BYTES) {
    throw new TorporError(
      'invalid_request',
      `The kernel command line of machine ${spec.id} is longer than ${MAX_KERNEL_COMMAND_LINE_BYTES} bytes.`,
    );
  }
}

/** Firecracker's ids consist of letters, digits and underscores; ours have no underscore. */
function apiId(id: string): string {
  return id.replaceAll('-', '_');
}
