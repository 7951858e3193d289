/** The defaults of a create request. */
export const SANDBOX_DEFAULTS = {
  template: 'base',
  vcpus: 1,
  memoryMb: 512,
  timeoutSec: 0,
} as const;
