// The bodies of Firecracker's API as the driver sends them: src/firecracker/swagger/firecracker.yaml.
// Firecracker refuses fields that it does not know, so what only some versions have is optional here.

/** PUT /boot-source */
export interface BootSource {
  readonly kernel_image_path: string;
  readonly initrd_path: string;
  readonly boot_args: string;
}

/** PUT /drives/{drive_id} */
export interface Drive {
  readonly drive_id: string;
  readonly path_on_host: string;
  readonly is_root_device: boolean;
  readonly is_read_only: boolean;
  /** `Unsafe` ignores the guest's flushes. */
  readonly cache_type: 'Unsafe' | 'Writeback';
}

/** PUT /network-interfaces/{iface_id} */
export interface NetworkInterface {
  readonly iface_id: string;
  readonly host_dev_name: string;
  readonly guest_mac: string;
}

/** PUT /machine-config */
export interface MachineConfiguration {
  readonly vcpu_count: number;
  readonly mem_size_mib: number;
  readonly smt: boolean;
  readonly track_dirty_pages: boolean;
}

/** PUT /actions */
export interface InstanceAction {
  readonly action_type: 'InstanceStart' | 'SendCtrlAltDel';
}

/** PATCH /vm */
export interface VmState {
  readonly state: 'Paused' | 'Resumed';
}

/** PUT /snapshot/create */
export interface SnapshotCreate {
  readonly snapshot_type: 'Full' | 'Diff';
  readonly snapshot_path: string;
  readonly mem_file_path: string;
}

/** PUT /snapshot/load */
export interface SnapshotLoad {
  readonly snapshot_path: string;
  readonly mem_backend: {
    readonly backend_type: 'File' | 'Uffd';
    readonly backend_path: string;
  };
  readonly resume_vm: boolean;
  readonly track_dirty_pages?: boolean;
  readonly enable_diff_snapshots?: boolean;
  readonly network_overrides?: readonly {
    readonly iface_id: string;
    readonly host_dev_name: string;
  }[];
  readonly clock_realtime?: boolean;
}

/** One call of the API that changes something. */
export type ApiRequest =
  | Put<'/boot-source', BootSource>
  | Put<`/drives/${string}`, Drive>
  | Put<`/network-interfaces/${string}`, NetworkInterface>
  | Put<'/machine-config', MachineConfiguration>
  | Put<'/entropy', Record<string, never>>
  | Put<'/actions', InstanceAction>
  | Put<'/snapshot/create', SnapshotCreate>
  | Put<'/snapshot/load', SnapshotLoad>
  | { readonly method: 'PATCH'; readonly path: '/vm'; readonly body: VmState };

interface Put<Path extends string, Body> {
  readonly method: 'PUT';
  readonly path: Path;
  readonly body: Body;
}
