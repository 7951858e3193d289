export interface KernelArgumentOptions {
  /** Shows every kernel message on the console. Costs about a second under emulation. */
  readonly verbose?: boolean;
}

/**
 * Initcalls that take long under emulation and that a sandbox does not need: the jitter
 * generator's self-test (an entropy source of the crypto API, not of /dev/random), the keys for
 * module signatures (our modules are unsigned in the initramfs, and as trusted as the kernel),
 * encrypted keys of keyctl(2), and the self-test of a key derivation function.
 */
const SKIPPED_INITCALLS = [
  'jent_mod_init',
  'load_system_certificate_list',
  'init_encrypted',
  'crypto_kdf108_init',
];

/**
 * The kernel command line of a guest with our initramfs. The driver adds the arguments of the
 * machine: console, reboot and panic.
 */
export function kernelArguments(options: KernelArgumentOptions = {}): readonly string[] {
  return [
    ...(options.verbose === true ? ['loglevel=7'] : ['quiet', 'loglevel=4']),
    // /init loads modules, which some VMMs' default command lines forbid.
    'random.trust_cpu=on',
    // The kernel names the only interface eth0; there is no udev that could rename it.
    'net.ifnames=0',
    '8250.nr_uarts=1',
    // Testing every cipher at boot is for kernel development.
    'cryptomgr.notests=1',
    `initcall_blacklist=${SKIPPED_INITCALLS.join(',')}`,
  ];
}
