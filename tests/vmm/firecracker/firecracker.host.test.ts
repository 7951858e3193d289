import { randomUUID } from 'node:crypto';
import { open, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { dataExtents, isProcessAlive, runCommand } from '@torpor/linux';
import { FakeInstallation } from '@torpor/testkit/firecracker';
import {
  BOOTED,
  committedAs,
  type DirtyBase,
  FirecrackerDriver,
  killLeftovers,
  type MachineSpec,
  type MicroVm,
  restoredFrom,
} from '@torpor/vmm';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { counted, MachineBench, printed } from '../machines.ts';
import { GUEST_MODES } from '../test-guest.ts';

// Each machine is a process of Node's, which a busy host starts slowly.
vi.setConfig({ testTimeout: 240_000 });

const USER = { uid: 61_234, gid: 61_234 };
const PAGE = 4096;
const MEMORY_MIB = 64;

let fakes: FakeInstallation;
let bench: MachineBench;

beforeEach(async () => {
  fakes = await FakeInstallation.create();
  bench = await MachineBench.create();
});

afterEach(async () => {
  await bench[Symbol.asyncDispose]();
  await fakes[Symbol.asyncDispose]();
});

async function driverOf(...options: Parameters<FakeInstallation['install']>) {
  return new FirecrackerDriver({ firecracker: await fakes.install(...options) });
}

async function specOf(change: Partial<MachineSpec> = {}): Promise<MachineSpec> {
  const kernelPath = join(bench.directory, 'kernel');
  await writeFile(kernelPath, 'the fake reads no kernel');
  const guest = { kernelPath, initramfsPath: kernelPath };
  return bench.spec(guest, GUEST_MODES.count, { memoryMiB: MEMORY_MIB, user: USER, ...change });
}

async function networkOf(tapDevice: string) {
  const namespace = `torpor-vmm-${randomUUID().slice(0, 8)}`;
  await runCommand('ip', ['netns', 'add', namespace]);
  onTestFinished(async () => {
    await runCommand('ip', ['netns', 'delete', namespace]);
  });
  await runCommand('ip', ['-n', namespace, 'tuntap', 'add', tapDevice, 'mode', 'tap']);
  return { namespace, tapDevice, macAddress: '02:fc:00:00:00:05' };
}

/** Everything that a failed start might leave in the run directory, beside its logs and the drives. */
async function remains(spec: MachineSpec): Promise<string[]> {
  const expected = ['base.img', 'upper.img', 'console.log', 'firecracker.err', 'firecracker.log'];
  const files = (await readdir(spec.runDirectory)).filter((name) => !expected.includes(name));
  return [...files, ...(await bench.leftovers(spec))];
}

function snapshotPaths(name: string) {
  const statePath = join(bench.directory, `${name}.state`);
  return { statePath, memoryPath: join(bench.directory, `${name}.memory`) };
}

const UNKNOWN: DirtyBase = { kind: 'unknown' };

/** A disk of its own in place of a directory, which can be filled to the last byte. */
async function smallDisk(directory: string) {
  await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=96m,mode=755', 'tmpfs', directory]);
  const filler = join(directory, 'filler');
  const unmount = async () => {
    await runCommand('umount', ['--lazy', directory]);
  };
  return {
    fill: () => expect(writeFile(filler, Buffer.alloc(96 * 2 ** 20))).rejects.toThrow('ENOSPC'),
    makeRoom: () => rm(filler),
    [Symbol.asyncDispose]: unmount,
  };
}

/** The base of a machine whose capture of this number became a build. */
function buildOfCapture(number: number): DirtyBase {
  return committedAs('build', { number });
}

/** The kinds of snapshots that were asked for. */
async function snapshotTypes(): Promise<unknown[]> {
  const calls = await fakes.calls();
  return calls
    .filter(({ call }) => call === 'PUT /snapshot/create')
    .map(({ body }) => body.snapshot_type);
}

/** Saves a machine that runs, whole. */
async function save(vm: MicroVm, name = 'saved') {
  await vm.pause();
  const paths = snapshotPaths(name);
  await vm.capture(UNKNOWN, paths);
  return { ...paths, memory: { kind: 'file', path: paths.memoryPath } as const };
}

describe('what Firecracker is told', () => {
  test('to boot a machine with drives and a network', async () => {
    const driver = await driverOf();
    const network = await networkOf('tap3');
    bench.track(
      await driver.start(await specOf({ network, vcpus: 2, kernelArguments: ['quiet'] })),
    );
    expect(await fakes.calls()).toEqual([
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

  test('to pause, resume and save a machine, and to restore it with another tap device', async () => {
    const driver = await driverOf();
    const network = await networkOf('tap3');
    const vm = bench.track(await driver.start(await specOf({ network })));
    const saved = await save(vm);
    await vm.capture(buildOfCapture(1), snapshotPaths('diff'));
    await vm.resume();
    const other = await networkOf('tap7');
    const spec = await specOf({ network: other });
    bench.track(await driver.restore({ ...spec, user: { uid: 0, gid: 0 } }, saved));
    expect((await fakes.calls()).slice(7)).toEqual([
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
    'is known to version %s: it boots, saves and restores',
    async (version) => {
      const driver = await driverOf({ version });
      const network = await networkOf('tap0');
      const vm = bench.track(await driver.start(await specOf({ network })));
      expect(vm.description).toMatchObject({ vmmVersion: version, accelerator: 'kvm' });
      await printed(vm, 'guest: count 2\r');
      const saved = await save(vm);
      const reached = await counted(vm);
      await vm.kill();
      const spec = await specOf({ network, user: { uid: 0, gid: 0 } });
      const restored = bench.track(await driver.restore(spec, saved));
      await restored.resume();
      await printed(restored, `guest: count ${reached + 3}\r`);
    },
  );
});

describe('a machine that cannot be restored', () => {
  async function savedMachine(version?: string) {
    const driver = await driverOf(version === undefined ? {} : { version });
    const vm = bench.track(await driver.start(await specOf()));
    const saved = await save(vm);
    await vm.kill();
    return { driver, saved };
  }

  test('from a state that is torn: said in the words of Firecracker', async () => {
    const { driver, saved } = await savedMachine();
    await truncate(saved.statePath, (await stat(saved.statePath)).size - 10);
    const spec = await specOf({ user: { uid: 0, gid: 0 } });
    await expect(driver.restore(spec, saved)).rejects.toMatchObject({
      code: 'vmm_failed',
      message:
        'Firecracker refused PUT /snapshot/load: Load snapshot error: Failed to restore from snapshot: Failed to deserialize the state: CRC64 mismatch.',
    });
    expect(await remains(spec)).toEqual([]);
  });

  test('from a state of another version', async () => {
    const { saved } = await savedMachine('1.13.0');
    const driver = await driverOf({ version: '1.16.1' });
    const spec = await specOf({ user: { uid: 0, gid: 0 } });
    await expect(driver.restore(spec, saved)).rejects.toThrow('data format 8.0.0 is not supported');
    expect(await remains(spec)).toEqual([]);
  });

  test('without one of its drives', async () => {
    const { driver, saved } = await savedMachine();
    const { drives, ...rest } = await specOf({ user: { uid: 0, gid: 0 } });
    const spec = { ...rest, drives: drives.slice(0, 1) };
    await expect(driver.restore(spec, saved)).rejects.toThrow(/Unable to open drives\/upper/);
    expect(await remains(spec)).toEqual([]);
  });

  test('from memory that its user may not read', async () => {
    const { driver, saved } = await savedMachine();
    const spec = await specOf();
    await expect(driver.restore(spec, saved)).rejects.toMatchObject({
      code: 'host_setup',
      message: `${saved.memoryPath} cannot be read by Firecracker, which runs as user ${USER.uid}.`,
      remedy: `Make it readable: chmod o+r ${saved.memoryPath}`,
    });
    expect(await remains(spec)).toEqual([]);
  });

  test('because Firecracker dies without an answer: its last error is told', async () => {
    const { saved } = await savedMachine();
    const driver = await driverOf({ diesAt: 'PUT /snapshot/load' });
    const spec = await specOf({ user: { uid: 0, gid: 0 } });
    await expect(driver.restore(spec, saved)).rejects.toMatchObject({
      code: 'vmm_failed',
      message: expect.stringContaining('dying at PUT /snapshot/load'),
    });
    expect(await remains(spec)).toEqual([]);
  });
});

describe('a machine that cannot start', () => {
  test('because a tap device is not there is told so, and nothing is left', async () => {
    const driver = await driverOf();
    const network = { ...(await networkOf('tap0')), tapDevice: 'tap9' };
    const spec = await specOf({ network });
    await expect(driver.start(spec)).rejects.toThrow(/no device tap9/);
    expect(await remains(spec)).toEqual([]);
  });

  test.each([
    [{ refuses: 'PUT /entropy' }, /The fake refuses PUT \/entropy/],
    [{ diesAt: 'PUT /actions' }, /dying at PUT \/actions/],
  ])(
    'because of Firecracker is told with its message, and nothing is left: %o',
    async (behaviour, words) => {
      const driver = await driverOf(behaviour);
      const spec = await specOf();
      await expect(driver.start(spec)).rejects.toThrow(words);
      expect(await remains(spec)).toEqual([]);
    },
  );

  test('a jail that cannot be made is told in the words of what makes it', async () => {
    const driver = await driverOf({}, { jailer: true });
    const network = { namespace: 'nowhere', tapDevice: 'tap0', macAddress: '02:fc:00:00:00:05' };
    const spec = await specOf({ network });
    await expect(driver.start(spec)).rejects.toThrow(/\/run\/netns\/nowhere/);
    expect(await remains(spec)).toEqual([]);
  });

  test('more vCPUs than Firecracker has are refused before anything is made', async () => {
    const driver = await driverOf();
    const spec = await specOf({ vcpus: 33 });
    await expect(driver.start(spec)).rejects.toMatchObject({ code: 'invalid_request' });
    expect(await remains(spec)).toEqual([]);
  });
});

describe('a machine that runs', () => {
  test.each([{ jailer: false }, { jailer: true }])(
    'is confined to what is its own: %o',
    async ({ jailer }) => {
      const driver = await driverOf({}, { jailer });
      const vm = bench.track(await driver.start(await specOf()));
      const { pid, spec } = vm.description;
      const status = await readFile(`/proc/${pid}/status`, 'utf8');
      expect(status).toMatch(new RegExp(`^Gid:\\s+${USER.gid}\\s+${USER.gid}\\s`, 'm'));
      expect(status).toMatch(/^Groups:\s*$/m);
      const limits = await readFile(`/proc/${pid}/limits`, 'utf8');
      expect(limits).toMatch(new RegExp(`^Max file size +${(MEMORY_MIB + 1) * 2 ** 20} `, 'm'));
      expect(limits).toMatch(/^Max open files +2048 /m);
      // It cannot put another socket where we connect to.
      const control = await stat(join(spec.runDirectory, 'run'));
      expect({ uid: control.uid, mode: control.mode & 0o777 }).toEqual({ uid: 0, mode: 0o700 });
      // Its drives are bound where only it sees them, the shared one read-only.
      expect(await readFile('/proc/self/mountinfo', 'utf8')).not.toContain(spec.runDirectory);
      const mounts = await readFile(`/proc/${pid}/mountinfo`, 'utf8');
      expect(mounts).toMatch(/\/drives\/base ro,/);
      expect(mounts).toMatch(/\/drives\/upper rw,/);
    },
  );
});

describe('a snapshot', () => {
  /** Pages that hold data in a sparse file. */
  async function pagesIn(path: string): Promise<Set<number>> {
    await using file = await open(path);
    const pages = new Set<number>();
    for (const { offset, length } of dataExtents(file)) {
      for (let at = offset; at < offset + length; at += PAGE) pages.add(at / PAGE);
    }
    return pages;
  }

  /** The fake's guest counts in the first bytes of its RAM. */
  async function countIn(path: string): Promise<number> {
    await using file = await open(path);
    const { buffer } = await file.read(Buffer.alloc(4), 0, 4, 0);
    return buffer.readUInt32LE();
  }

  async function running(behaviour = {}): Promise<{ driver: FirecrackerDriver; vm: MicroVm }> {
    const driver = await driverOf(behaviour);
    const vm = bench.track(await driver.start(await specOf()));
    await printed(vm, 'guest: count 2\r');
    return { driver, vm };
  }

  test('of all is as large as the memory, and ours alone; one of changes holds those only', async () => {
    const { vm } = await running();
    const full = await save(vm);
    const { size, mode, uid } = await stat(full.memoryPath);
    expect({ size, mode: mode & 0o777, uid }).toEqual({
      size: MEMORY_MIB * 2 ** 20,
      mode: 0o600,
      uid: 0,
    });
    await vm.resume();
    await printed(vm, `guest: count ${(await counted(vm)) + 3}\r`);
    await vm.pause();
    const diff = snapshotPaths('diff');
    expect(await vm.capture(buildOfCapture(1), diff)).toEqual({
      memoryPath: diff.memoryPath,
      holes: 'unchanged',
      number: 2,
    });
    expect((await stat(diff.memoryPath)).size).toBe(size);
    const pages = await pagesIn(diff.memoryPath);
    const ticks = (await countIn(diff.memoryPath)) - (await countIn(full.memoryPath));
    // Each tick writes the count, and zeros to another page: those are data too.
    expect(ticks).toBeGreaterThan(2);
    expect(pages.size).toBe(1 + ticks);
  });

  test('of a machine that runs is refused', async () => {
    const { vm } = await running();
    const taking = vm.capture(UNKNOWN, snapshotPaths('never'));
    await expect(taking).rejects.toMatchObject({ code: 'invalid_state' });
    await expect(stat(snapshotPaths('never').statePath)).rejects.toThrow('ENOENT');
  });

  test('does not replace what is there', async () => {
    const { vm } = await running();
    await vm.pause();
    const paths = snapshotPaths('taken');
    await writeFile(paths.memoryPath, 'a build');
    const taking = vm.capture(UNKNOWN, paths);
    await expect(taking).rejects.toMatchObject({ code: 'already_exists' });
    expect(await readFile(paths.memoryPath, 'utf8')).toBe('a build');
    await expect(stat(paths.statePath)).rejects.toThrow('ENOENT');
  });

  test.each<[string, DirtyBase]>([
    ['zeros', BOOTED],
    ['a build', restoredFrom('build')],
  ])(
    'is of all memory when the one before was lost, and of changes after that: from %s',
    async (_, base) => {
      const { vm } = await running({ refuses: 'PUT /snapshot/create' });
      await vm.pause();
      await expect(vm.capture(base, snapshotPaths('lost'))).rejects.toThrow(
        'The fake refuses PUT /snapshot/create',
      );
      const full = snapshotPaths('full');
      expect(await vm.capture(base, full)).toEqual({
        memoryPath: full.memoryPath,
        holes: 'zero',
        number: 2,
        fullBecause: 'Firecracker tracks what was written since snapshot 1, not 0.',
      });
      expect(await snapshotTypes()).toEqual(['Diff', 'Full']);
      expect((await pagesIn(full.memoryPath)).size).toBeGreaterThan(1);
      expect(await countIn(full.memoryPath)).toBe(await counted(vm));
      const diff = snapshotPaths('diff');
      expect(await vm.capture(buildOfCapture(2), diff)).toMatchObject({
        holes: 'unchanged',
        number: 3,
      });
      expect(await snapshotTypes()).toEqual(['Diff', 'Full', 'Diff']);
      expect((await pagesIn(diff.memoryPath)).size).toBe(0);
    },
  );

  test.each<[string, (path: string) => Promise<void>]>([
    ['torn', (path) => writeFile(path, '')],
    ['garbage', (path) => writeFile(path, '0x0')],
    ['negative', (path) => writeFile(path, '-0')],
    ['missing', (path) => rm(path)],
  ])(
    'is of all memory when the count of attempts is %s, and of changes after that',
    async (_, damage) => {
      const { vm } = await running({ refuses: 'PUT /snapshot/create' });
      await vm.pause();
      await expect(vm.capture(restoredFrom('build'), snapshotPaths('lost'))).rejects.toThrow(
        'The fake refuses PUT /snapshot/create',
      );
      await damage(join(vm.description.spec.runDirectory, 'snapshot-count'));
      const full = snapshotPaths('full');
      const { number, ...capture } = await vm.capture(restoredFrom('build'), full);
      expect(capture).toEqual({
        memoryPath: full.memoryPath,
        holes: 'zero',
        fullBecause: 'The count of its snapshots is lost or damaged.',
      });
      expect(await countIn(full.memoryPath)).toBe(await counted(vm));
      await vm.capture(buildOfCapture(number), snapshotPaths('diff'));
      expect(await snapshotTypes()).toEqual(['Diff', 'Full', 'Diff']);
    },
  );

  test('that cannot be counted is not asked for, and the next one is still of changes', async () => {
    await using disk = await smallDisk(bench.directory);
    const { vm } = await running();
    await save(vm);
    const diff = snapshotPaths('diff');
    await disk.fill();
    const taking = vm.capture(buildOfCapture(1), diff);
    await expect(taking).rejects.toMatchObject({ code: 'ENOSPC' });
    expect(await snapshotTypes()).toEqual(['Full']);
    await disk.makeRoom();
    expect(await vm.capture(buildOfCapture(1), diff)).toMatchObject({ number: 2 });
    expect(await snapshotTypes()).toEqual(['Full', 'Diff']);
  });

  test('of what was written since a boot has zeros for holes', async () => {
    const { vm } = await running();
    await vm.pause();
    const paths = snapshotPaths('first');
    const { memoryPath } = paths;
    expect(await vm.capture(BOOTED, paths)).toEqual({ memoryPath, holes: 'zero', number: 1 });
    expect(await snapshotTypes()).toEqual(['Diff']);
    expect(await countIn(memoryPath)).toBe(await counted(vm));
  });

  test('counts on for the process that adopts the machine', async () => {
    const { driver, vm } = await running();
    await save(vm);
    await vm.detach();
    const adopted = await driver.adopt(vm.description);
    if (adopted === undefined) throw new Error('it was not there any more');
    bench.track(adopted);
    expect(await adopted.capture(buildOfCapture(1), snapshotPaths('diff'))).toMatchObject({
      holes: 'unchanged',
      number: 2,
    });
    // Of the diff to that one nothing is asked any more.
    expect(await adopted.capture(buildOfCapture(1), snapshotPaths('stale'))).toMatchObject({
      holes: 'zero',
      number: 3,
      fullBecause: expect.stringContaining('since snapshot 2, not 1'),
    });
    expect(await snapshotTypes()).toEqual(['Full', 'Diff', 'Full']);
  });

  test('goes to another file system too, with its holes', async () => {
    const { vm } = await running();
    await vm.pause();
    const { statePath } = snapshotPaths('far');
    const memoryPath = `/dev/shm/torpor-test-${randomUUID()}`;
    onTestFinished(() => rm(memoryPath, { force: true }));
    await vm.capture(UNKNOWN, { statePath, memoryPath });
    const { size, blocks } = await stat(memoryPath);
    expect(size).toBe(MEMORY_MIB * 2 ** 20);
    expect(blocks * 512).toBeLessThan(size / 4);
    expect(await readdir(join(vm.description.spec.runDirectory, 'snapshot'))).toEqual([]);
  });

  test('that never ends with an answer is lost with its machine, and says so', async () => {
    const { vm } = await running({ diesAt: 'PUT /snapshot/create' });
    await vm.pause();
    const paths = snapshotPaths('torn');
    const taking = vm.capture(UNKNOWN, paths);
    await expect(taking).rejects.toMatchObject({ code: 'vmm_failed' });
    expect(await vm.exited).toMatchObject({
      exitCode: 148,
      reason: expect.stringMatching(
        /status 148: it made a system call that its filter forbids\. Its last error: dying at PUT \/snapshot\/create/,
      ),
    });
    await expect(stat(paths.statePath)).rejects.toThrow('ENOENT');
    expect(await remains(vm.description.spec)).toEqual([]);
  });
});

describe('the end', () => {
  test.each([{ jailer: false }, { jailer: true }])(
    'of what nobody remembers, found by its directory: %o',
    async ({ jailer }) => {
      const driver = await driverOf({}, { jailer });
      const [forgotten, other] = [
        bench.track(await driver.start(await specOf())),
        bench.track(await driver.start(await specOf())),
      ];
      const { spec, pid, startTimeTicks } = forgotten.description;
      expect(await killLeftovers(spec.runDirectory)).toEqual([{ pid, startTimeTicks }]);
      await forgotten.exited;
      expect(await remains(spec)).toEqual([]);
      expect(await killLeftovers(spec.runDirectory)).toEqual([]);
      expect(isProcessAlive(other.description)).toBe(true);
    },
  );

  test('of a machine that is stopped comes by its own keys, and leaves nothing', async () => {
    const driver = await driverOf();
    const vm = bench.track(await driver.start(await specOf()));
    await vm.pause();
    await vm.stop(20_000);
    expect(await vm.exited).toMatchObject({ reason: 'The machine was stopped.', exitCode: 0 });
    expect((await fakes.calls()).at(-1)).toEqual({
      call: 'PUT /actions',
      body: { action_type: 'SendCtrlAltDel' },
    });
    expect(await remains(vm.description.spec)).toEqual([]);
  });
});
