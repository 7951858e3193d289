import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { GuestUnderTest } from './guest-under-test.ts';

/* The kernel, the initramfs, the agent drive and the image `base` together. */

describe('a guest of 512 MiB', () => {
  let guest: GuestUnderTest;

  beforeAll(async () => {
    guest = await GuestUnderTest.boot();
    await guest.healthy();
  });
  afterAll(async () => {
    await guest?.[Symbol.asyncDispose]();
  });

  test('prints its progress on its console, and nothing fails', async () => {
    const console = await guest.console();
    const phases = [...console.matchAll(/torpor: \[[\d.]+\] (\w[\w ]*)/g)].map(
      ([, phase]) => phase,
    );
    expect(phases).toEqual(['init', 'drives', 'root', 'starting envd']);
    expect(console).not.toMatch(/boot failed|cannot|not found|can't/);
  });

  test('has the kernel of its artefacts', async () => {
    expect(await read(guest, '/proc/sys/kernel/osrelease')).toBe(
      `${guest.artifacts.kernel.version}\n`,
    );
  });

  test("runs envd from the agent drive, with the drive's own C library", async () => {
    const maps = await read(guest, '/proc/self/maps');
    const files = [...maps.matchAll(/ (\/\S+)$/gm)].map(([, path]) => path);
    expect(files).toContain('/.torpor/bin/node');
    expect(files).toContain('/.torpor/lib/libc.so.6');
    expect(files.filter((path) => !path?.startsWith('/.torpor/'))).toEqual([]);
  });

  test('has one overlay as its root, and the file systems that programs expect', async () => {
    const mounts = (await read(guest, '/proc/self/mounts'))
      .split('\n')
      .map((line) => line.split(' '));
    const types = new Map(mounts.map(([, directory, type]) => [directory, type]));
    expect(Object.fromEntries(types)).toEqual({
      '/': 'overlay',
      '/dev': 'devtmpfs',
      '/dev/hugepages': 'hugetlbfs',
      '/dev/mqueue': 'mqueue',
      '/dev/pts': 'devpts',
      '/dev/shm': 'tmpfs',
      '/proc': 'proc',
      '/run': 'tmpfs',
      '/sys': 'sysfs',
      '/sys/fs/bpf': 'bpf',
      '/sys/fs/cgroup': 'cgroup2',
      '/sys/fs/fuse/connections': 'fusectl',
      '/sys/kernel/debug': 'debugfs',
      '/sys/kernel/tracing': 'tracefs',
      '/var/lib/containerd': 'ext4',
      '/var/lib/containers': 'ext4',
      '/var/lib/docker': 'ext4',
      '': undefined,
    });
  });

  test("uses the processor's counter as its clock, not ticks of 4 ms", async () => {
    expect(
      await read(guest, '/sys/devices/system/clocksource/clocksource0/current_clocksource'),
    ).toMatch(/^(?:tsc|tsc-early|kvm-clock)\n$/);
  });

  test('writes to its upper drive', async () => {
    await guest.curl([
      ...['-f', '--data-binary', 'text', '-H', 'content-type: application/octet-stream'],
      guest.url('/files?path=/home/user/written&username=user'),
    ]);
    expect(await read(guest, '/home/user/written')).toBe('text');
  });
});

test('a guest without its upper drive reports that on the console and stops', async () => {
  await using guest = await GuestUnderTest.boot((spec) => ({
    ...spec,
    drives: spec.drives.slice(0, 2),
  }));
  const { consoleTail } = await guest.vm.exited;
  expect(consoleTail.join('\n')).toMatch(
    /torpor: \[[\d.]+\] boot failed: the upper drive \/dev\/vdc did not appear/,
  );
});

/** A file of the guest, as root. The sizes of the kernel's files are too large, or unknown. */
function read(guest: GuestUnderTest, path: string): Promise<string> {
  return guest.curl([
    '-f',
    '--ignore-content-length',
    '-H',
    'connection: close',
    guest.url(`/files?path=${encodeURIComponent(path)}&username=root`),
  ]);
}
