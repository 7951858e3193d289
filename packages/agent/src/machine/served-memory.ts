import type { MicroVm } from '@torpor/vmm';
import type { HostContext } from '../host-context.ts';

/** Kills a VM whose pages can no longer be served, and keeps the reason. */
export class ServedMemory {
  readonly #host: Pick<HostContext, 'logger'>;
  readonly #servedAs: string;
  reason: string | undefined;
  #vm: MicroVm | undefined;

  /** `servedAs`: the VM's id at the pager. */
  constructor(host: Pick<HostContext, 'logger'>, servedAs: string) {
    this.#host = host;
    this.#servedAs = servedAs;
  }

  set vm(vm: MicroVm) {
    this.#vm = vm;
    if (this.reason !== undefined) this.#kill(vm);
  }

  fail(reason: string): void {
    this.#host.logger.error({ vm: this.#servedAs, reason }, 'Pager failed to serve memory');
    this.reason = reason;
    if (this.#vm !== undefined) this.#kill(this.#vm);
  }

  #kill(vm: MicroVm): void {
    vm.kill().catch((error: unknown) => {
      this.#host.logger.error({ vm: this.#servedAs, err: error }, 'VMM could not be killed');
    });
  }
}

/**
 * Adopts the memory of a VM that an earlier agent started, before the VM itself: without its
 * pager a VM may not even respond. Throws `vmm_failed`.
 */
export async function adoptMemory(
  host: HostContext,
  servedAs: string,
  stack: AsyncDisposableStack,
): Promise<ServedMemory> {
  const { pages } = host;
  const served = new ServedMemory(host, servedAs);
  await pages.adopt(servedAs, (reason) => served.fail(reason));
  stack.defer(() => pages.release(servedAs));
  return served;
}
