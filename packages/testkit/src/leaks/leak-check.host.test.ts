import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from '@torpor/linux';
import { describe, expect, test, vi } from 'vitest';
import { findLeaks, readHost, settledLeaks } from './leak-check.ts';

const MARKER = `TORPOR_LEAK_CHECK_TEST=${process.pid}`;
const isRoot = process.getuid?.() === 0;

/** Only leaks of this test: other tests run at the same time. */
async function leaksNaming(text: string, before: Awaited<ReturnType<typeof readHost>>) {
  const leaks = findLeaks(before, await readHost({ environmentMarker: MARKER }));
  return leaks.filter((leak) => leak.includes(text));
}

describe('leak check', () => {
  test('finds nothing between two readings without a change', async () => {
    const reading = await readHost();
    expect(findLeaks(reading, reading)).toEqual([]);
  });

  test('names a process by the environment that it inherited, until it has exited', async () => {
    const before = await readHost({ environmentMarker: MARKER });
    const [name = '', value = ''] = MARKER.split('=');
    const child = spawn('sleep', ['4711'], { env: { ...process.env, [name]: value } });
    try {
      await expect
        .poll(() => leaksNaming('sleep 4711', before))
        .toEqual([`processes: ${child.pid} sleep 4711`]);
    } finally {
      child.kill('SIGKILL');
    }
    await expect.poll(() => leaksNaming('sleep 4711', before)).toEqual([]);
  });

  test('does not name a process of another test run', async () => {
    const before = await readHost({ environmentMarker: MARKER });
    const [name = ''] = MARKER.split('=');
    const env = { ...process.env, [name]: 'another' };
    const other = spawn('sleep', ['4713'], { argv0: 'qemu-system-x86_64', env });
    const own = spawn('sleep', ['4714'], { argv0: 'qemu-system-x86_64' });
    try {
      await expect.poll(() => leaksNaming('4714', before)).toHaveLength(1);
      expect(await leaksNaming('4713', before)).toEqual([]);
    } finally {
      other.kill('SIGKILL');
      own.kill('SIGKILL');
    }
  });

  test('does not name to an ordinary user what another user has', async () => {
    const before = await readHost();
    const directory = await mkdtemp(join(tmpdir(), 'torpor-leak-owner-'));
    try {
      vi.spyOn(process, 'getuid').mockReturnValue(4711);
      expect(await leaksNaming(directory, before)).toEqual([]);
      vi.restoreAllMocks();
      expect(await leaksNaming(directory, before)).toEqual([`directories: ${directory}`]);
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  test('names one of our programs without the marker', async () => {
    const before = await readHost();
    const child = spawn('sleep', ['4712'], { argv0: 'qemu-system-x86_64' });
    try {
      await expect.poll(() => leaksNaming('4712', before)).toHaveLength(1);
    } finally {
      child.kill('SIGKILL');
    }
  });

  test('names a temporary directory', async () => {
    const before = await readHost();
    const directory = await mkdtemp(join(tmpdir(), 'torpor-leak-check-test-'));
    try {
      expect(await leaksNaming(directory, before)).toEqual([`directories: ${directory}`]);
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  test.runIf(isRoot)('names a namespace, its mount, a device and a table', async () => {
    const namespace = `tpleak${process.pid}`;
    const device = `tpl${process.pid % 100_000}`;
    const table = `torpor_leak_${process.pid}`;
    const before = await readHost();
    await using undo = new AsyncDisposableStack();
    await runCommand('ip', ['netns', 'add', namespace]);
    undo.defer(async () => void (await runCommand('ip', ['netns', 'del', namespace])));
    await runCommand('ip', ['link', 'add', device, 'type', 'veth', 'peer', 'name', `${device}p`]);
    undo.defer(async () => void (await runCommand('ip', ['link', 'del', device])));
    await runCommand('nft', ['add', 'table', 'inet', table]);
    undo.defer(async () => void (await runCommand('nft', ['delete', 'table', 'inet', table])));

    expect((await leaksNaming(namespace, before)).toSorted()).toEqual([
      `mounts: /run/netns/${namespace}`,
      `namespaces: ${namespace}`,
    ]);
    expect(await leaksNaming(device, before)).toHaveLength(2);
    expect(await leaksNaming(table, before)).toEqual([`nftTables: table inet ${table}`]);
  });

  test.runIf(isRoot)('names a mount', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'torpor-leak-mount-'));
    const target = join(directory, 'mounted');
    await mkdir(target);
    const before = await readHost();
    await using undo = new AsyncDisposableStack();
    undo.defer(() => rm(directory, { recursive: true }));
    await runCommand('mount', ['-t', 'tmpfs', 'tmpfs', target]);
    undo.defer(async () => void (await runCommand('umount', [target])));
    expect(await leaksNaming(target, before)).toEqual([`mounts: ${target}`]);
  });

  test('reads a host on which nothing has a route or a table yet', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'torpor-leak-bare-'));
    const { PATH } = process.env;
    process.env.PATH = `${directory}:${PATH}`;
    const plays = (name: string, script: string) =>
      writeFile(join(directory, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    try {
      await plays(
        'ip',
        'echo "Error: ipv4: FIB table does not exist.\nDump terminated" >&2; exit 2',
      );
      await plays(
        'nft',
        'echo "Error: cache initialization failed: Protocol not supported" >&2; exit 1',
      );
      expect(await readHost()).toMatchObject({ routes: new Set(), nftTables: new Set() });
      await plays('ip', 'echo "unreachable 10.201.0.0/20"');
      await plays(
        'nft',
        'echo "# Warning: table ip nat is managed by iptables-nft, do not touch!\ntable ip nat"',
      );
      expect(await readHost()).toMatchObject({
        routes: new Set(['unreachable 10.201.0.0/20']),
        nftTables: new Set(['table ip nat']),
      });
      await plays('nft', 'echo "Operation not permitted (you must be root)" >&2; exit 1');
      await expect(readHost()).rejects.toThrow(/must be root/);
    } finally {
      process.env.PATH = PATH;
      await rm(directory, { recursive: true });
    }
  });

  test('waits for processes that are exiting', async () => {
    const before = await readHost({ environmentMarker: MARKER });
    const directory = await mkdtemp(join(tmpdir(), 'torpor-leak-wait-'));
    const started = await readHost();
    expect(findLeaks(before, started).some((leak) => leak.includes(directory))).toBe(true);
    await rm(directory, { recursive: true });
    const leaks = await settledLeaks(before, { environmentMarker: MARKER }, 0);
    expect(leaks.filter((leak) => leak.includes(directory))).toEqual([]);
  });
});
