export interface KernelArgumentOptions {
  /** Shows every kernel message on the console. Costs about a second under emulation. */
  readonly verbose?: boolean;
}

/**
 * Parts of the kernel whose start computes for long under emulation and that a
 * sandbox has no use for: the jitter generator's self-test (an entropy source of the
 * crypto API, not of /dev/random), the keys for signatures of modules (ours come
 * unsigned in the initramfs, from the same place as the kernel), encrypted keys of
 * keyctl(2), and the self-test of a key derivation.
 */
const SKIPPED_INITCALLS = [
  'jent_mod_init',
  'load_system_certificate_list',
  'init_encrypted',
  'crypto_kdf108_init',
];

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
    // Testing every cipher at boot is for kernels that are being developed.
    'cryptomgr.notests=1',
    `initcall_blacklist=${SKIPPED_INITCALLS.join(',')}`,
  ];
}
