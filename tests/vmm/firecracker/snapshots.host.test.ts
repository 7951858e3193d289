import { randomUUID } from 'node:crypto';
import { open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { dataExtents, runCommand } from '@torpor/linux';
import {
  BOOTED,
  type DirtyBase,
  type FirecrackerDriver,
  type MicroVm,
  restoredFrom,
} from '@torpor/vmm';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { counted, printed } from '../machines.ts';
import { buildOfCapture, FakeMachines, MEMORY_MIB, UNKNOWN } from './fake-machines.ts';

// Each machine is a Node process, which starts slowly on a busy host.
vi.setConfig({ testTimeout: 240_000 });

const PAGE = 4096;

let machines: FakeMachines;

beforeEach(async () => {
  machines = await FakeMachines.create();
});

afterEach(async () => {
  await machines[Symbol.asyncDispose]();
});

/** Mounts a small disk on a directory, which can be filled to the last byte. */
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

/** The types of the requested snapshots. */
async function snapshotTypes(): Promise<unknown[]> {
  const calls = await machines.calls();
  return calls
    .filter(({ call }) => call === 'PUT /snapshot/create')
    .map(({ body }) => body.snapshot_type);
}

describe('a snapshot', () => {
  /** The pages with data in a sparse file. */
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
    const driver = await machines.driver(behaviour);
    const vm = machines.track(await driver.start(await machines.spec()));
    await printed(vm, 'guest: count 2\r');
    return { driver, vm };
  }

  test('of all memory is as large as it, and readable only by us; a diff contains only the changes', async () => {
    const { vm } = await running();
    const full = await machines.save(vm);
    const { size, mode, uid } = await stat(full.memoryPath);
    expect({ size, mode: mode & 0o777, uid }).toEqual({
      size: MEMORY_MIB * 2 ** 20,
      mode: 0o600,
      uid: 0,
    });
    await vm.resume();
    await printed(vm, `guest: count ${(await counted(vm)) + 3}\r`);
    await vm.pause();
    const diff = machines.snapshotPaths('diff');
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

  test('of a running machine is refused', async () => {
    const { vm } = await running();
    const taking = vm.capture(UNKNOWN, machines.snapshotPaths('never'));
    await expect(taking).rejects.toMatchObject({ code: 'invalid_state' });
    await expect(stat(machines.snapshotPaths('never').statePath)).rejects.toThrow('ENOENT');
  });

  test('does not replace an existing file', async () => {
    const { vm } = await running();
    await vm.pause();
    const paths = machines.snapshotPaths('taken');
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
    'is of all memory if the one before was lost, and a diff after that: from %s',
    async (_, base) => {
      const { vm } = await running({ refuses: 'PUT /snapshot/create' });
      await vm.pause();
      await expect(vm.capture(base, machines.snapshotPaths('lost'))).rejects.toThrow(
        'The fake refuses PUT /snapshot/create',
      );
      const full = machines.snapshotPaths('full');
      expect(await vm.capture(base, full)).toEqual({
        memoryPath: full.memoryPath,
        holes: 'zero',
        number: 2,
        fullBecause: 'Firecracker tracks what was written since snapshot 1, not 0.',
      });
      expect(await snapshotTypes()).toEqual(['Diff', 'Full']);
      expect((await pagesIn(full.memoryPath)).size).toBeGreaterThan(1);
      expect(await countIn(full.memoryPath)).toBe(await counted(vm));
      const diff = machines.snapshotPaths('diff');
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
    'is of all memory if the count of attempts is %s, and a diff after that',
    async (_, damage) => {
      const { vm } = await running({ refuses: 'PUT /snapshot/create' });
      await vm.pause();
      await expect(
        vm.capture(restoredFrom('build'), machines.snapshotPaths('lost')),
      ).rejects.toThrow('The fake refuses PUT /snapshot/create');
      await damage(join(vm.description.spec.runDirectory, 'snapshot-count'));
      const full = machines.snapshotPaths('full');
      const { number, ...capture } = await vm.capture(restoredFrom('build'), full);
      expect(capture).toEqual({
        memoryPath: full.memoryPath,
        holes: 'zero',
        fullBecause: 'The count of its snapshots is lost or damaged.',
      });
      expect(await countIn(full.memoryPath)).toBe(await counted(vm));
      await vm.capture(buildOfCapture(number), machines.snapshotPaths('diff'));
      expect(await snapshotTypes()).toEqual(['Diff', 'Full', 'Diff']);
    },
  );

  test('that cannot be counted is not requested, and the next one is still a diff', async () => {
    await using disk = await smallDisk(machines.directory);
    const { vm } = await running();
    await machines.save(vm);
    const diff = machines.snapshotPaths('diff');
    await disk.fill();
    const taking = vm.capture(buildOfCapture(1), diff);
    await expect(taking).rejects.toMatchObject({ code: 'ENOSPC' });
    expect(await snapshotTypes()).toEqual(['Full']);
    await disk.makeRoom();
    expect(await vm.capture(buildOfCapture(1), diff)).toMatchObject({ number: 2 });
    expect(await snapshotTypes()).toEqual(['Full', 'Diff']);
  });

  test('of the writes since a boot has zeros for holes', async () => {
    const { vm } = await running();
    await vm.pause();
    const paths = machines.snapshotPaths('first');
    const { memoryPath } = paths;
    expect(await vm.capture(BOOTED, paths)).toEqual({ memoryPath, holes: 'zero', number: 1 });
    expect(await snapshotTypes()).toEqual(['Diff']);
    expect(await countIn(memoryPath)).toBe(await counted(vm));
  });

  test('continues the count in the process that adopts the machine', async () => {
    const { driver, vm } = await running();
    await machines.save(vm);
    await vm.detach();
    const adopted = await driver.adopt(vm.description);
    if (adopted === undefined) throw new Error('it was not there any more');
    machines.track(adopted);
    expect(await adopted.capture(buildOfCapture(1), machines.snapshotPaths('diff'))).toMatchObject({
      holes: 'unchanged',
      number: 2,
    });
    // A diff to that one is no longer requested.
    expect(await adopted.capture(buildOfCapture(1), machines.snapshotPaths('stale'))).toMatchObject(
      {
        holes: 'zero',
        number: 3,
        fullBecause: expect.stringContaining('since snapshot 2, not 1'),
      },
    );
    expect(await snapshotTypes()).toEqual(['Full', 'Diff', 'Full']);
  });

  test('can be on another file system, with its holes', async () => {
    const { vm } = await running();
    await vm.pause();
    const { statePath } = machines.snapshotPaths('far');
    const memoryPath = `/dev/shm/torpor-test-${randomUUID()}`;
    onTestFinished(() => rm(memoryPath, { force: true }));
    await vm.capture(UNKNOWN, { statePath, memoryPath });
    const { size, blocks } = await stat(memoryPath);
    expect(size).toBe(MEMORY_MIB * 2 ** 20);
    expect(blocks * 512).toBeLessThan(size / 4);
    expect(await readdir(join(vm.description.spec.runDirectory, 'snapshot'))).toEqual([]);
  });

  test('during which Firecracker exits is lost with its machine, and reports that', async () => {
    const { vm } = await running({ diesAt: 'PUT /snapshot/create' });
    await vm.pause();
    const paths = machines.snapshotPaths('torn');
    const taking = vm.capture(UNKNOWN, paths);
    await expect(taking).rejects.toMatchObject({ code: 'vmm_failed' });
    expect(await vm.exited).toMatchObject({
      exitCode: 148,
      reason: expect.stringMatching(
        /status 148: it made a system call that its filter forbids\. Its last error: dying at PUT \/snapshot\/create/,
      ),
    });
    await expect(stat(paths.statePath)).rejects.toThrow('ENOENT');
    expect(await machines.remains(vm.description.spec)).toEqual([]);
  });
});
