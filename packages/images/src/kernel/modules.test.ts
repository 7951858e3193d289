import { describe, expect, test } from 'vitest';
import { moduleName, orderModules } from './modules.ts';

const TREE: Record<string, string[]> = {
  virtio_net: ['net_failover'],
  net_failover: ['failover'],
  failover: [],
  overlay: [],
  virtio_mmio: [],
};

describe('orderModules', () => {
  test('a module comes after its dependencies, otherwise in the requested order', () => {
    expect(
      orderModules(['virtio-mmio', 'virtio_net', 'failover', 'overlay'], (name) => TREE[name]),
    ).toEqual(['virtio_mmio', 'failover', 'net_failover', 'virtio_net', 'overlay']);
  });

  test('built-in modules are left out, also as dependencies', () => {
    const tree: Record<string, string[]> = { virtio_blk: ['virtio'] };
    expect(orderModules(['virtio', 'virtio_blk'], (name) => tree[name])).toEqual(['virtio_blk']);
  });

  test('a cycle is refused by name', () => {
    const tree: Record<string, string[]> = { a: ['b'], b: ['a'] };
    expect(() => orderModules(['a'], (name) => tree[name])).toThrow('a → b → a');
  });
});

test('a dash and an underscore name the same module', () => {
  expect(moduleName('virtio-rng')).toBe(moduleName('virtio_rng'));
});
