import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmod, readFile, rm, stat } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { isProcessAlive, runCommand, signalProcess } from '@torpor/linux';
import type { MachineDescription, MicroVm, VmmDriver } from '@torpor/vmm';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { counted, MachineBench, printed } from './machines.ts';
import { BASE_TEXT, GUEST_MODES, GUEST_TEXT, type TestGuest } from './test-guest.ts';

export interface DriverUnderTest {
  readonly name: string;
  /** Creates the guest's files in a directory. */
  readonly makeGuest: (directory: string) => Promise<TestGuest>;
  readonly createDriver: () => Promise<VmmDriver>;
  /** A module whose default export is the same function, for a separate process. */
  readonly driverModule: URL;
  /** Whether the VMM gives up root for the ids of a spec. */
  readonly dropsPrivileges: boolean;
  /** Whether guest RAM is the machine's own file, or is written with a snapshot. */
  readonly memoryIsFile: boolean;
  /** Whether it filters its own system calls, and opens its tap device: a fake does neither. */
  readonly isReal: boolean;
  /** Whether the guest can switch the machine off, or only stop. */
  readonly hasPowerSwitch: boolean;
}

/** The limit that `MicroVm.exited` guarantees. */
const EXIT_NOTICED_WITHIN_MS = 2_000;
const UNPRIVILEGED = { uid: 61_234, gid: 61_234 };

/** The requirements of every driver, tested with real boots of real kernels. Needs root. */
export function describeDriver(subject: DriverUnderTest): void {
  describe(subject.name, () => {
    let bench: MachineBench;
    let guest: TestGuest;
    let driver: VmmDriver;
    let vm: MicroVm;

    beforeAll(async () => {
      bench = await MachineBench.create();
      guest = await subject.makeGuest(bench.directory);
      driver = await subject.createDriver();
      const user = subject.dropsPrivileges ? { user: UNPRIVILEGED } : {};
      vm = bench.track(await driver.start(await bench.spec(guest, GUEST_MODES.count, user)));
      await printed(vm, 'guest: count');
    });

    afterAll(async () => {
      await bench[Symbol.asyncDispose]();
    });

    test('a machine boots with its drives in order, and its console is kept', async () => {
      await printed(vm, `guest: base says ${BASE_TEXT}, ro 1`);
      expect((await readFile(upperDisk(vm))).subarray(0, GUEST_TEXT.length).toString()).toBe(
        GUEST_TEXT,
      );
      expect((await vm.readConsole(10)).length).toBe(10);
    });

    test('it runs unprivileged, in its own session, with its memory in its own file', async () => {
      const { pid, spec } = vm.description;
      const status = await readFile(`/proc/${pid}/status`, 'utf8');
      if (subject.dropsPrivileges) {
        const { uid } = UNPRIVILEGED;
        expect(status).toMatch(new RegExp(`^Uid:\\s+${uid}\\s+${uid}\\s+${uid}\\s+${uid}$`, 'm'));
        expect(status).toMatch(/^CapEff:\s+0+$/m);
      }
      if (subject.isReal) expect(status).toMatch(/^Seccomp:\s+2$/m);
      const [, afterName = ''] = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ');
      expect(afterName.split(' ')[3]).toBe(String(pid));
      if (!subject.memoryIsFile) {
        await expect(stat(spec.memoryFile)).rejects.toMatchObject({ code: 'ENOENT' });
        return;
      }
      const memory = await stat(spec.memoryFile);
      expect(memory.size).toBe(spec.memoryMiB * 1024 * 1024);
      expect(memory.blocks).toBeGreaterThan(0);
    });

    test('pause stops the guest, resume continues it, and both may be repeated', async () => {
      await vm.pause();
      await vm.pause();
      const paused = await counted(vm);
      await vm.resume();
      await vm.resume();
      await printed(vm, `guest: count ${paused + 3}\r`);
    });

    test('a running machine is not saved', async () => {
      const path = `${bench.directory}/never`;
      await expect(save(vm, path)).rejects.toMatchObject({ code: 'invalid_state' });
      await expect(stat(path)).rejects.toMatchObject({ code: 'ENOENT' });
    });

    test('two saves of a paused machine are equivalent: clones of both run at once from one memory file, then it keeps running', async () => {
      const statePath = `${bench.directory}/state`;
      await vm.pause();
      const disk = await readFile(upperDisk(vm));
      const source = await save(vm, statePath);
      const memory = await readFile(source.memory.path);
      const again = await save(vm, `${statePath}-again`);
      expect(memory.equals(await readFile(again.memory.path))).toBe(true);
      expect(disk.equals(await readFile(upperDisk(vm)))).toBe(true);
      const reached = await counted(vm);
      // The states may differ, because clocks keep running in a paused machine. Otherwise both must
      // be equivalent: each is restored with the memory of the first save.
      const states = [source.statePath, again.statePath];
      const user = subject.dropsPrivileges ? { user: UNPRIVILEGED } : {};
      const clones: MicroVm[] = [];
      for (const path of states) {
        const spec = await bench.spec(guest, GUEST_MODES.count, user);
        clones.push(bench.track(await driver.restore(spec, { ...source, statePath: path })));
      }
      for (const clone of clones) {
        expect(await counted(clone)).toBe(0);
        await clone.resume();
      }
      for (const clone of clones) {
        await printed(clone, `guest: count ${reached + 5}\r`);
        expect((await clone.readConsole(65536)).toString()).not.toContain('guest: ready');
      }
      // The clones' writes are private: the file has not changed.
      expect(memory.equals(await readFile(source.memory.path))).toBe(true);
      for (const clone of clones) {
        await clone.kill();
        expect((await clone.exited).reason).toBe('The machine was killed.');
        expect(await bench.leftovers(clone.description.spec)).toEqual([]);
      }
      await vm.resume();
      await printed(vm, `guest: count ${reached + 2}\r`);
    });

    test('a truncated state is refused, and nothing is left of the machine', async () => {
      const spec = await bench.spec(guest, GUEST_MODES.count);
      const path = subject.memoryIsFile
        ? vm.description.spec.memoryFile
        : `${bench.directory}/state-memory`;
      const memory = { kind: 'file', path } as const;
      const restoring = driver.restore(spec, { statePath: guest.initramfsPath, memory });
      await expect(restoring).rejects.toMatchObject({ code: 'vmm_failed' });
      expect(await bench.leftovers(spec)).toEqual([]);
    });

    test('a machine can be released and adopted, and its exit is still noticed', async () => {
      const reached = await counted(vm);
      await vm.detach();
      expect(isProcessAlive(vm.description)).toBe(true);
      const restarted = await subject.createDriver();
      const description: MachineDescription = JSON.parse(JSON.stringify(vm.description));
      const adopted = await restarted.adopt(description);
      if (adopted === undefined) throw new Error('it was not there any more');
      vm = bench.track(adopted);
      await printed(vm, `guest: count ${reached + 5}\r`);
      await vm.pause();
      await vm.resume();
      signalProcess(description, 'SIGKILL');
      const noticed = AbortSignal.timeout(EXIT_NOTICED_WITHIN_MS);
      const { reason, consoleTail } = await Promise.race([vm.exited, rejection(noticed)]);
      expect(reason).toMatch(/terminated by SIGKILL/);
      expect(consoleTail.join('\n')).toMatch(/guest: count \d+/);
      expect(await restarted.adopt(description)).toBeUndefined();
      await rm(description.spec.memoryFile, { force: true });
      expect(await bench.leftovers(description.spec)).toEqual([]);
    });

    test('a machine outlives the process that started it, and the next one adopts it', async () => {
      const spec = await bench.spec(guest, GUEST_MODES.count);
      const { stdout } = await promisify(execFile)(process.execPath, [
        fileURLToPath(new URL('start-and-die.ts', import.meta.url)),
        subject.driverModule.href,
        JSON.stringify(spec),
      ]).catch((error) => error);
      const description: MachineDescription = JSON.parse(stdout);
      const adopted = await driver.adopt(description);
      if (adopted === undefined) throw new Error('it was not there any more');
      bench.track(adopted);
      await printed(adopted, 'guest: count');
      await adopted.stop(0);
      expect((await adopted.exited).reason).toBe('The machine was stopped.');
      expect(isProcessAlive(description)).toBe(false);
    });

    test('a VMM that is killed is noticed in time, with the signal and no routine warning', async () => {
      const own = await driver.start(await bench.spec(guest, GUEST_MODES.count));
      bench.track(own);
      signalProcess(own.description, 'SIGKILL');
      const noticed = AbortSignal.timeout(EXIT_NOTICED_WITHIN_MS);
      const report = await Promise.race([own.exited, rejection(noticed)]);
      expect(report).toMatchObject({
        signal: 'SIGKILL',
        reason: expect.stringMatching(/^\w+ was terminated by SIGKILL, [^:]*\.$/),
      });
      await expect(own.pause()).rejects.toMatchObject({ code: 'vmm_failed' });
      await own.kill();
    });

    test("a guest's panic stops the machine and is reported with the guest's message", async () => {
      const own = bench.track(await driver.start(await bench.spec(guest, GUEST_MODES.panic)));
      const report = await own.exited;
      expect(report.reason).toMatch(/^The guest's kernel panicked: Attempted to kill init!/);
      expect(report.consoleTail).toHaveLength(20);
    });

    test('a guest that powers itself off is reported as such', async () => {
      const own = bench.track(await driver.start(await bench.spec(guest, GUEST_MODES.powerOff)));
      expect(await own.exited).toMatchObject({
        reason: 'The guest powered itself down.',
        ...(subject.hasPowerSwitch ? { exitCode: 0 } : {}),
      });
    });

    test('a machine that cannot start reports why, and nothing is left of it', async () => {
      const spec = await bench.spec(guest, GUEST_MODES.count, {
        kernelPath: '/nonexistent/kernel',
      });
      await expect(driver.start(spec)).rejects.toMatchObject({
        code: 'vmm_failed',
        message: expect.stringContaining('/nonexistent/kernel'),
      });
      expect(await bench.leftovers(spec)).toEqual([]);
    });

    test.runIf(subject.memoryIsFile)(
      "a memory file that exists already is somebody else's",
      async () => {
        const spec = await bench.spec(guest, GUEST_MODES.count, {
          memoryFile: guest.initramfsPath,
        });
        await expect(driver.start(spec)).rejects.toThrow('EEXIST');
        expect((await stat(guest.initramfsPath)).size).toBeGreaterThan(0);
        expect(await bench.leftovers(spec)).toEqual([]);
      },
    );

    test('a machine runs in its network namespace with its tap device', async () => {
      const namespace = `torpor-vmm-${randomUUID().slice(0, 8)}`;
      await runCommand('ip', ['netns', 'add', namespace]);
      onTestFinished(async () => {
        await runCommand('ip', ['netns', 'delete', namespace]);
      });
      const inside = ['-n', namespace];
      await runCommand('ip', [...inside, 'tuntap', 'add', 'tap0', 'mode', 'tap']);
      await runCommand('ip', [...inside, 'link', 'set', 'tap0', 'up']);
      const network = { namespace, tapDevice: 'tap0', macAddress: '02:fc:00:00:00:05' };
      const spec = await bench.spec(guest, GUEST_MODES.count, { network });
      const own = bench.track(await driver.start(spec));
      await printed(own, 'guest: eth0 is 02:fc:00:00:00:05');
      const links = await runCommand('ip', [...inside, '-json', 'link', 'show', 'tap0']);
      if (subject.isReal) expect(JSON.parse(links)[0].flags).toContain('LOWER_UP');
      const pids = await runCommand('ip', ['netns', 'pids', namespace]);
      expect(pids.trim()).toBe(String(own.description.pid));
      await own.kill();
    });
  });
}

function upperDisk(vm: MicroVm): string {
  return vm.description.spec.drives[1]?.path ?? '';
}

/** State and RAM of a paused machine, as its VMM keeps them. */
async function save(vm: MicroVm, statePath: string) {
  const memoryPath = `${statePath}-memory`;
  const capture = await vm.capture({ kind: 'unknown' }, { statePath, memoryPath });
  // A VMM without privileges maps the file itself.
  if (capture.memoryPath === memoryPath) await chmod(memoryPath, 0o644);
  return { statePath, memory: { kind: 'file', path: capture.memoryPath } } as const;
}

function rejection(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(new Error('the exit was not noticed in time')));
  });
}
