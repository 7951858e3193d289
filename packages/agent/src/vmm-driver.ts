import {
  ensureUffdShim,
  FirecrackerDriver,
  findFirecracker,
  findQemu,
  type MachineDescription,
  type MachineSpec,
  type MicroVm,
  QemuDriver,
  type RestoreSource,
  type VmmCapabilities,
  type VmmDriver,
  type VmmKind,
} from '@torpor/vmm';
import type { VmmChoice } from './vmm-choice.ts';

/**
 * The driver of the VMM that was chosen. `cacheDir` is for the library that QEMU's compiles;
 * `startTimeoutMs` is how long a VMM may take from its start to its first response.
 */
export async function openDriver(
  choice: VmmChoice,
  cacheDir: string,
  startTimeoutMs: number,
): Promise<VmmDriver> {
  const { installation, programs } = choice;
  if (installation.kind === 'firecracker') {
    const { firecracker } = installation;
    return new HostDriver(new FirecrackerDriver({ firecracker, startTimeoutMs }), async () => {
      const qemu = await findQemu(programs.qemu);
      const { accelerator } = choice.accelerator;
      return new QemuDriver({ qemu, accelerator, startTimeoutMs });
    });
  }
  const { qemu } = installation;
  const { accelerator } = choice.accelerator;
  const uffdShimPath = await ensureUffdShim(cacheDir);
  return new HostDriver(
    new QemuDriver({ qemu, accelerator, uffdShimPath, startTimeoutMs }),
    async () => {
      const firecracker = await findFirecracker(programs);
      return new FirecrackerDriver({ firecracker, startTimeoutMs });
    },
  );
}

/** One VMM for all new machines; machines of the other one, from an earlier choice, are adopted too. */
export class HostDriver implements VmmDriver {
  readonly kind: VmmKind;
  readonly capabilities: VmmCapabilities;
  readonly #chosen: VmmDriver;
  readonly #other: () => Promise<VmmDriver>;

  constructor(chosen: VmmDriver, other: () => Promise<VmmDriver>) {
    this.kind = chosen.kind;
    this.capabilities = chosen.capabilities;
    this.#chosen = chosen;
    this.#other = other;
  }

  start(spec: MachineSpec): Promise<MicroVm> {
    return this.#chosen.start(spec);
  }

  restore(spec: MachineSpec, source: RestoreSource): Promise<MicroVm> {
    return this.#chosen.restore(spec, source);
  }

  /** Throws as the drivers do, and `host_setup` if the other VMM is no longer installed. */
  async adopt(description: MachineDescription): Promise<MicroVm | undefined> {
    const driver = description.driver === this.kind ? this.#chosen : await this.#other();
    return driver.adopt(description);
  }
}
