import type { Principal } from '../auth/principal.ts';
import type { HostConnection } from '../hosts/connection.ts';
import type { HostRegistry } from '../hosts/registry.ts';
import type { SandboxService } from '../sandboxes/service.ts';

/** The way to the guests of running sandboxes. */
export class GuestAccess {
  readonly #sandboxes: SandboxService;
  readonly #hosts: HostRegistry;

  constructor(sandboxes: SandboxService, hosts: HostRegistry) {
    this.#sandboxes = sandboxes;
    this.#hosts = hosts;
  }

  /** The connection to the host that has the sandbox. Throws what {@link SandboxService.requireRunning} throws. */
  async host(principal: Principal, id: string): Promise<HostConnection> {
    const { host_id: hostId } = await this.#sandboxes.requireRunning(principal, id);
    return this.#hosts.connection(hostId);
  }
}
