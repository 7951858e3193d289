import { runCommand } from '@torpor/linux';
import { GUEST, GUEST_DRIVES } from '@torpor/protocol';
import { expect, test } from 'vitest';
import { initScript } from './init-script.ts';
import { mountTable } from './mount-table.ts';

const SCRIPT = initScript(['virtio_mmio.ko', 'virtio_blk.ko', 'overlay.ko']);

test("busybox's shell can parse it", async () => {
  await runCommand('busybox', ['sh', '-n'], { input: SCRIPT });
});

test('it loads the modules in the order given, before it waits for the drives', () => {
  const lines = SCRIPT.split('\n');
  const load = lines.indexOf('insmod_all virtio_mmio.ko virtio_blk.ko overlay.ko');
  const waits = Object.values(GUEST_DRIVES).map(({ id, device }) =>
    lines.indexOf(`wait_for ${device} ${id}`),
  );
  expect(load).toBeGreaterThan(0);
  expect(Math.min(...waits)).toBeGreaterThan(load);
});

test('it gives the guest the address that the host expects', () => {
  expect(SCRIPT).toContain(`ifconfig eth0 ${GUEST.address} netmask 255.255.255.252 up`);
  expect(SCRIPT).toContain(`route add default gw ${GUEST.gateway}`);
});

test('directories that are mounted over the overlay exist on the disk before the overlay is mounted', () => {
  const lines = SCRIPT.split('\n');
  const overlay = lines.findIndex((line) => line.startsWith('mount -t overlay'));
  for (const [, , target = ''] of mountTable().matchAll(/^(\S+) \/root(\/var\S+) none bind/gm)) {
    const made = lines.findIndex((line) => line.includes(`/layers/upper/root${target} `));
    expect(made).toBeGreaterThan(0);
    expect(made).toBeLessThan(overlay);
  }
});
