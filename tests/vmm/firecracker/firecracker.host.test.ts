import { readFile, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { isProcessAlive } from '@torpor/linux';
import { killLeftovers } from '@torpor/vmm';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { counted, printed } from '../machines.ts';
import { buildOfCapture, FakeMachines, MEMORY_MIB, networkOf, USER } from './fake-machines.ts';

// Each machine is a Node process, which starts slowly on a busy host.
vi.setConfig({ testTimeout: 240_000 });

let machines: FakeMachines;

beforeEach(async () => {
  machines = await FakeMachines.create();
});

afterEach(async () => {
  await machines[Symbol.asyncDispose]();
});

describe('calls to Firecracker', () => {
  test('that boot a machine with drives and a network', async () => {
    const driver = await machines.driver();
    const network = await networkOf('tap3');
    machines.track(
      await driver.start(await machines.spec({ network, vcpus: 2, kernelArguments: ['quiet'] })),
    );
    expect(await machines.calls()).toEqual([
      {
        call: 'PUT /boot-source',
        body: {
          kernel_image_path: 'kernel',
          initrd_path: 'initramfs',
          boot_args:
            'console=ttyS0 reboot=k panic=-1 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce clocksource=kvm-clock quiet',
        },
      },
      {
        call: 'PUT /machine-config',
        body: { vcpu_count: 2, mem_size_mib: MEMORY_MIB, smt: false, track_dirty_pages: true },
      },
      {
        call: 'PUT /drives/base',
        body: {
          drive_id: 'base',
          path_on_host: 'drives/base',
          is_root_device: false,
          is_read_only: true,
          cache_type: 'Unsafe',
        },
      },
      {
        call: 'PUT /drives/upper',
        body: {
          drive_id: 'upper',
          path_on_host: 'drives/upper',
          is_root_device: false,
          is_read_only: false,
          cache_type: 'Writeback',
        },
      },
      {
        call: 'PUT /network-interfaces/eth0',
        body: { iface_id: 'eth0', host_dev_name: 'tap3', guest_mac: '02:fc:00:00:00:05' },
      },
      { call: 'PUT /entropy', body: {} },
      { call: 'PUT /actions', body: { action_type: 'InstanceStart' } },
    ]);
  });

  test('that pause, resume and save a machine, and restore it with another tap device', async () => {
    const driver = await machines.driver();
    const network = await networkOf('tap3');
    const vm = machines.track(await driver.start(await machines.spec({ network })));
    const saved = await machines.save(vm);
    await vm.capture(buildOfCapture(1), machines.snapshotPaths('diff'));
    await vm.resume();
    const other = await networkOf('tap7');
    const spec = await machines.spec({ network: other });
    machines.track(await driver.restore({ ...spec, user: { uid: 0, gid: 0 } }, saved));
    expect((await machines.calls()).slice(7)).toEqual([
      { call: 'PATCH /vm', body: { state: 'Paused' } },
      {
        call: 'PUT /snapshot/create',
        body: {
          snapshot_type: 'Full',
          snapshot_path: 'snapshot/state',
          mem_file_path: 'snapshot/memory',
        },
      },
      {
        call: 'PUT /snapshot/create',
        body: {
          snapshot_type: 'Diff',
          snapshot_path: 'snapshot/state',
          mem_file_path: 'snapshot/memory',
        },
      },
      { call: 'PATCH /vm', body: { state: 'Resumed' } },
      {
        call: 'PUT /snapshot/load',
        body: {
          snapshot_path: 'loaded/state',
          mem_backend: { backend_type: 'File', backend_path: 'loaded/memory' },
          resume_vm: false,
          track_dirty_pages: true,
          network_overrides: [{ iface_id: 'eth0', host_dev_name: 'tap7' }],
          clock_realtime: true,
        },
      },
    ]);
  });

  test.each(['1.8.0', '1.12.1', '1.15.0', '1.17.0-dev'])(
    'are accepted by version %s: it boots, saves and restores',
    async (version) => {
      const driver = await machines.driver({ version });
      const network = await networkOf('tap0');
      const vm = machines.track(await driver.start(await machines.spec({ network })));
      expect(vm.description).toMatchObject({ vmmVersion: version, accelerator: 'kvm' });
      await printed(vm, 'guest: count 2\r');
      const saved = await machines.save(vm);
      const reached = await counted(vm);
      await vm.kill();
      const spec = await machines.spec({ network, user: { uid: 0, gid: 0 } });
      const restored = machines.track(await driver.restore(spec, saved));
      await restored.resume();
      await printed(restored, `guest: count ${reached + 3}\r`);
    },
  );
});

describe('a machine that cannot be restored', () => {
  async function savedMachine(version?: string) {
    const driver = await machines.driver(version === undefined ? {} : { version });
    const vm = machines.track(await driver.start(await machines.spec()));
    const saved = await machines.save(vm);
    await vm.kill();
    return { driver, saved };
  }

  test('from a truncated state: reported with the message of Firecracker', async () => {
    const { driver, saved } = await savedMachine();
    await truncate(saved.statePath, (await stat(saved.statePath)).size - 10);
    const spec = await machines.spec({ user: { uid: 0, gid: 0 } });
    await expect(driver.restore(spec, saved)).rejects.toMatchObject({
      code: 'vmm_failed',
      message:
        'Firecracker refused PUT /snapshot/load: Load snapshot error: Failed to restore from snapshot: Failed to deserialize the state: CRC64 mismatch.',
    });
    expect(await machines.remains(spec)).toEqual([]);
  });

  test('from a state of another version', async () => {
    const { saved } = await savedMachine('1.13.0');
    const driver = await machines.driver({ version: '1.16.1' });
    const spec = await machines.spec({ user: { uid: 0, gid: 0 } });
    await expect(driver.restore(spec, saved)).rejects.toThrow('data format 8.0.0 is not supported');
    expect(await machines.remains(spec)).toEqual([]);
  });

  test('without one of its drives', async () => {
    const { driver, saved } = await savedMachine();
    const { drives, ...rest } = await machines.spec({ user: { uid: 0, gid: 0 } });
    const spec = { ...rest, drives: drives.slice(0, 1) };
    await expect(driver.restore(spec, saved)).rejects.toThrow(/Unable to open drives\/upper/);
    expect(await machines.remains(spec)).toEqual([]);
  });

  test('from memory that its user cannot read', async () => {
    const { driver, saved } = await savedMachine();
    const spec = await machines.spec();
    await expect(driver.restore(spec, saved)).rejects.toMatchObject({
      code: 'host_setup',
      message: `${saved.memoryPath} cannot be read by Firecracker, which runs as user ${USER.uid}.`,
      remedy: `Make it readable: chmod o+r ${saved.memoryPath}`,
    });
    expect(await machines.remains(spec)).toEqual([]);
  });

  test('because Firecracker exits without a response: its last error is reported', async () => {
    const { saved } = await savedMachine();
    const driver = await machines.driver({ diesAt: 'PUT /snapshot/load' });
    const spec = await machines.spec({ user: { uid: 0, gid: 0 } });
    await expect(driver.restore(spec, saved)).rejects.toMatchObject({
      code: 'vmm_failed',
      message: expect.stringContaining('dying at PUT /snapshot/load'),
    });
    expect(await machines.remains(spec)).toEqual([]);
  });
});

describe('a machine that cannot start', () => {
  test('because a tap device is missing reports that, and leaves nothing', async () => {
    const driver = await machines.driver();
    const network = { ...(await networkOf('tap0')), tapDevice: 'tap9' };
    const spec = await machines.spec({ network });
    await expect(driver.start(spec)).rejects.toThrow(/no device tap9/);
    expect(await machines.remains(spec)).toEqual([]);
  });

  test.each([
    [{ refuses: 'PUT /entropy' }, /The fake refuses PUT \/entropy/],
    [{ diesAt: 'PUT /actions' }, /dying at PUT \/actions/],
  ])(
    'because of Firecracker reports its message, and leaves nothing: %o',
    async (behaviour, message) => {
      const driver = await machines.driver(behaviour);
      const spec = await machines.spec();
      await expect(driver.start(spec)).rejects.toThrow(message);
      expect(await machines.remains(spec)).toEqual([]);
    },
  );

  test('a jail that cannot be created is reported with the message of the jailer', async () => {
    const driver = await machines.driver({}, { jailer: true });
    const network = { namespace: 'nowhere', tapDevice: 'tap0', macAddress: '02:fc:00:00:00:05' };
    const spec = await machines.spec({ network });
    await expect(driver.start(spec)).rejects.toThrow(/\/run\/netns\/nowhere/);
    expect(await machines.remains(spec)).toEqual([]);
  });

  test('more vCPUs than Firecracker supports are refused before anything is created', async () => {
    const driver = await machines.driver();
    const spec = await machines.spec({ vcpus: 33 });
    await expect(driver.start(spec)).rejects.toMatchObject({ code: 'invalid_request' });
    expect(await machines.remains(spec)).toEqual([]);
  });
});

describe('a machine that runs', () => {
  test.each([{ jailer: false }, { jailer: true }])(
    'is confined to its own resources: %o',
    async ({ jailer }) => {
      const driver = await machines.driver({}, { jailer });
      const vm = machines.track(await driver.start(await machines.spec()));
      const { pid, spec } = vm.description;
      const status = await readFile(`/proc/${pid}/status`, 'utf8');
      expect(status).toMatch(new RegExp(`^Gid:\\s+${USER.gid}\\s+${USER.gid}\\s`, 'm'));
      expect(status).toMatch(/^Groups:\s*$/m);
      const limits = await readFile(`/proc/${pid}/limits`, 'utf8');
      expect(limits).toMatch(new RegExp(`^Max file size +${(MEMORY_MIB + 1) * 2 ** 20} `, 'm'));
      expect(limits).toMatch(/^Max open files +2048 /m);
      // It cannot replace the socket that we connect to.
      const control = await stat(join(spec.runDirectory, 'run'));
      expect({ uid: control.uid, mode: control.mode & 0o777 }).toEqual({ uid: 0, mode: 0o700 });
      // Its drives are mounted where only it sees them, the shared one read-only.
      expect(await readFile('/proc/self/mountinfo', 'utf8')).not.toContain(spec.runDirectory);
      const mounts = await readFile(`/proc/${pid}/mountinfo`, 'utf8');
      expect(mounts).toMatch(/\/drives\/base ro,/);
      expect(mounts).toMatch(/\/drives\/upper rw,/);
    },
  );
});

describe('the stop', () => {
  test.each([{ jailer: false }, { jailer: true }])(
    'of a machine without a record, found by its directory: %o',
    async ({ jailer }) => {
      const driver = await machines.driver({}, { jailer });
      const [forgotten, other] = [
        machines.track(await driver.start(await machines.spec())),
        machines.track(await driver.start(await machines.spec())),
      ];
      const { spec, pid, startTimeTicks } = forgotten.description;
      expect(await killLeftovers(spec.runDirectory)).toEqual([{ pid, startTimeTicks }]);
      await forgotten.exited;
      expect(await machines.remains(spec)).toEqual([]);
      expect(await killLeftovers(spec.runDirectory)).toEqual([]);
      expect(isProcessAlive(other.description)).toBe(true);
    },
  );

  test('of a running machine is requested with Ctrl-Alt-Del, and leaves nothing', async () => {
    const driver = await machines.driver();
    const vm = machines.track(await driver.start(await machines.spec()));
    await vm.pause();
    await vm.stop(20_000);
    expect(await vm.exited).toMatchObject({ reason: 'The machine was stopped.', exitCode: 0 });
    expect((await machines.calls()).at(-1)).toEqual({
      call: 'PUT /actions',
      body: { action_type: 'SendCtrlAltDel' },
    });
    expect(await machines.remains(vm.description.spec)).toEqual([]);
  });
});
