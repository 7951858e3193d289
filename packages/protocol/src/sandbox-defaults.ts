/** The defaults of a create request. */
export const SANDBOX_DEFAULTS = {
  template: 'base',
  vcpus: 1,
  memoryMb: 512,
  diskMb: 5120,
  timeoutSec: 0,
} as const;
