/** The last bytes of a signed module; include/linux/module_signature.h. */
const MARK = Buffer.from('~Module signature appended~\n', 'latin1');
/** sizeof(struct module_signature), which precedes the mark. */
const DESCRIPTION_BYTES = 12;

/**
 * A kernel module without the signature that its distributor appended: checking it would cost
 * an emulated guest as much as loading the module. One without a signature is returned as it
 * is. Throws for a truncated file.
 */
export function withoutSignature(module: Buffer): Buffer {
  if (!module.subarray(-MARK.length).equals(MARK)) return module;
  const description = module.length - MARK.length - DESCRIPTION_BYTES;
  // The last field is the length of the signature, big-endian.
  const signature =
    description < 0 ? -1 : description - module.readUInt32BE(description + DESCRIPTION_BYTES - 4);
  if (signature < 0)
    throw new Error('the kernel module has a signature that is longer than itself');
  return module.subarray(0, signature);
}
