import { type MachineDescription, QemuDriver, type VmmDriver } from '@torpor/vmm';
import { expect, test } from 'vitest';
import { HostDriver } from './vmm-driver.ts';

const QEMU = { path: '/nonexistent/qemu', version: '10.0.2', machineType: 'microvm' } as const;

/** Of a process that does not exist. */
function description(driver: MachineDescription['driver']): MachineDescription {
  const runDirectory = '/nonexistent/run';
  return {
    driver,
    vmmVersion: '1',
    accelerator: 'tcg',
    pid: 2 ** 22 - 1,
    memoryOrigin: 'zeros',
    startTimeTicks: '0',
    spec: {
      id: 'exited',
      vcpus: 1,
      memoryMiB: 128,
      kernelPath: '/nonexistent/kernel',
      initramfsPath: '/nonexistent/initramfs',
      kernelArguments: [],
      drives: [],
      runDirectory,
      memoryFile: '/nonexistent/memory',
      console: { path: '/nonexistent/console', maxBytes: 4096 },
    },
  };
}

test('machines are adopted by the driver that started them, whichever driver is chosen now', async () => {
  const asked: string[] = [];
  const chosen = new QemuDriver({ qemu: QEMU, accelerator: 'tcg' });
  const driver = new HostDriver(chosen, async () => {
    asked.push('firecracker');
    const other: VmmDriver = new QemuDriver({ qemu: QEMU, accelerator: 'tcg' });
    return other;
  });
  expect(driver.kind).toBe('qemu');
  expect(await driver.adopt(description('qemu'))).toBeUndefined();
  expect(asked).toEqual([]);
  expect(await driver.adopt(description('firecracker'))).toBeUndefined();
  expect(asked).toEqual(['firecracker']);
});
