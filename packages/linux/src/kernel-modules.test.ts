import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CommandError } from './command.ts';
import { KernelModules } from './kernel-modules.ts';

const RELEASE = '6.12.57+deb13-amd64';

let root: string;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'torpor-modules-'));
  await mkdir(join(root, 'sys/module/nf_tables'), { recursive: true });
});
afterEach(() => rm(root, { recursive: true }));

/** The lists of a Debian kernel, shortened. */
async function installModules(): Promise<void> {
  const directory = join(root, 'lib/modules', RELEASE);
  await mkdir(directory, { recursive: true });
  await writeFile(
    join(directory, 'modules.dep'),
    [
      'kernel/drivers/net/veth.ko.xz:',
      'kernel/net/netfilter/nf_tables.ko.xz: kernel/net/netfilter/nfnetlink.ko.xz',
      'kernel/net/netfilter/nft_ct.ko.xz: kernel/net/netfilter/nf_tables.ko.xz kernel/net/netfilter/nf_conntrack.ko.xz',
      'kernel/arch/x86/kvm/kvm-intel.ko.xz: kernel/arch/x86/kvm/kvm.ko.xz',
      'updates/dkms/wireguard.ko:',
      '',
    ].join('\n'),
  );
  await writeFile(join(directory, 'modules.builtin'), 'kernel/drivers/net/tun.ko\n');
}

test('a module that is neither loaded nor built in can be loaded, under its name in sysfs', async () => {
  await installModules();
  const kernel = new KernelModules({ root, release: RELEASE });
  const names = ['kvm_intel', 'tun', 'veth', 'nf_tables', 'nft_ct', 'wireguard', 'nf_conntrack'];
  expect(await kernel.unloaded(names)).toEqual(['kvm_intel', 'veth', 'nft_ct', 'wireguard']);
  await mkdir(join(root, 'sys/module/veth'));
  expect(await kernel.unloaded(['veth'])).toEqual([]);
});

test('nothing can be loaded where a container sees no modules, or those of another kernel', async () => {
  expect(await new KernelModules({ root, release: RELEASE }).unloaded(['veth'])).toEqual([]);
  await installModules();
  expect(await new KernelModules({ root, release: '6.1.0' }).unloaded(['veth'])).toEqual([]);
});

test('a module that modprobe refuses is an error with its message', async () => {
  const modprobe = join(root, 'modprobe');
  const message = "modprobe: ERROR: could not insert 'kvm_intel': Operation not supported";
  await writeFile(modprobe, `#!/bin/sh\necho "${message}" >&2\nexit 1\n`, { mode: 0o755 });
  const loading = new KernelModules({ root, release: RELEASE, modprobe }).load('kvm_intel');
  await expect(loading).rejects.toThrow(CommandError);
  await expect(loading).rejects.toThrow(message);
});
