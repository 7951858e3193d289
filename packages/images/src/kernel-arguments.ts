export interface KernelArgumentOptions {
  /** Shows every kernel message on the console. Costs about a second under emulation. */
  readonly verbose?: boolean;
}

/**
 * What a guest that starts with our initramfs needs on its kernel command line.
 * The driver adds what belongs to the machine: console, reboot and panic.
 */
export function kernelArguments(options: KernelArgumentOptions = {}): readonly string[] {
  return [
    ...(options.verbose === true ? ['loglevel=7'] : ['quiet', 'loglevel=4']),
    // /init loads modules; some VMMs' defaults forbid that, and ours must not depend on a default.
    'random.trust_cpu=on',
    // The kernel names the only interface eth0 by itself; there is no udev that could rename it.
    'net.ifnames=0',
    '8250.nr_uarts=1',
  ];
}
