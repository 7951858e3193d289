import { expect, test } from 'vitest';
import { isForGuests } from './module-tree.ts';

test.each([
  ['kernel/fs/overlayfs/overlay.ko.xz', true],
  ['kernel/net/bridge/br_netfilter.ko.xz', true],
  ['kernel/drivers/net/tun.ko.xz', true],
  ['kernel/drivers/net/vxlan/vxlan.ko.xz', true],
  ['kernel/drivers/net/ethernet/intel/ixgbevf/ixgbevf.ko.xz', false],
  ['kernel/drivers/infiniband/core/ib_core.ko.xz', false],
  ['kernel/drivers/networks/x.ko', false],
])('%s is for guests: %s', (path, expected) => {
  expect(isForGuests(path)).toBe(expected);
});
