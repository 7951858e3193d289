import { appendFile, copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureGuestArtifacts } from '@torpor/images';
import { runCommand } from '@torpor/linux';
import { ENVD_ENTRY } from '@torpor/testkit/guests';

/** Which kernel image a VMM boots. */
export type KernelFormat = 'bzImage' | 'vmlinux';

export interface TestGuest {
  readonly kernelPath: string;
  readonly initramfsPath: string;
}

/** The kernel command line tells the guest what to do. */
export const GUEST_MODES = {
  /** Checks its drives, writes to the last, then prints a count. */
  count: 'guest=count',
  /** Its init exits, which makes the kernel panic. */
  panic: 'guest=panic',
  /** Powers itself off. */
  powerOff: 'guest=poweroff',
} as const;

/** The start of the first drive, and what the guest writes to the start of the last one. */
export const BASE_TEXT = 'text on the base drive';
export const GUEST_TEXT = 'text of the guest';

const INIT = `#!/bin/sh
mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
read -r arguments </proc/cmdline
case $arguments in
*guest=panic*) echo "guest: ending"; exit 3 ;;
*guest=poweroff*) echo "guest: powering off"; poweroff -f; sleep 60 ;;
esac
for module in failover net_failover virtio_mmio virtio_blk virtio_net; do
	[ -e /modules/$module.ko ] && insmod /modules/$module.ko
done
polls=0
until [ -b /dev/vdb ] || [ $polls = 100 ]; do polls=$((polls + 1)); usleep 50000; done
echo "guest: base says $(busybox head -c ${BASE_TEXT.length} /dev/vda), ro $(busybox cat /sys/block/vda/ro)"
echo "${GUEST_TEXT}" | busybox dd of=/dev/vdb conv=fsync 2>/dev/null
[ -e /sys/class/net/eth0 ] && echo "guest: eth0 is $(busybox cat /sys/class/net/eth0/address)"
echo "guest: ready"
count=0
while :; do count=$((count + 1)); echo "guest: count $count"; usleep 100000; done
`;

/**
 * The project's own kernel and modules with a program of the tests instead of
 * its /init: an appended archive replaces files of the earlier ones
 * (Documentation/driver-api/early-userspace/buffer-format.rst).
 */
export async function makeTestGuest(directory: string, format: KernelFormat): Promise<TestGuest> {
  const cacheDir = process.env.TORPOR_CACHE_DIR ?? '/var/lib/torpor';
  const { kernel, initramfsPath } = await ensureGuestArtifacts({ cacheDir, envdEntry: ENVD_ENTRY });
  const root = join(directory, 'guest');
  await mkdir(root);
  await writeFile(join(root, 'init'), INIT, { mode: 0o755 });
  const archive = await runCommand('busybox', ['cpio', '-o', '-H', 'newc'], {
    cwd: root,
    input: 'init\n',
  });
  const path = join(directory, 'initramfs.cpio');
  await copyFile(initramfsPath, path);
  await appendFile(path, archive);
  return {
    kernelPath: format === 'bzImage' ? kernel.bzImagePath : kernel.vmlinuxPath,
    initramfsPath: path,
  };
}
