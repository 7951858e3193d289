/** What a new sandbox gets where the request does not say. */
export const SANDBOX_DEFAULTS = {
  template: 'base',
  vcpus: 1,
  memoryMb: 512,
  timeoutSec: 0,
} as const;
