import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { QemuInstallation } from '@torpor/vmm';
import type { HostImage } from './host-image.ts';

export interface EmulatedMachineOptions {
  readonly qemu: QemuInstallation;
  readonly image: HostImage;
  /** Persistent; writes to the disk of the host image are discarded. */
  readonly productDiskPath: string;
  /** For the log of its console and the writes to its disk. */
  readonly directory: string;
  readonly memoryMiB: number;
  readonly signal: AbortSignal;
  /** Called for each line from its second serial port. */
  readonly onLine: (line: string) => void;
}

const VCPUS = 2;
/** Large enough for the translated code of a whole distribution; when it is full, all of it is discarded. */
const TRANSLATION_CACHE_MIB = 1024;

export function consolePath(directory: string): string {
  return join(directory, 'console.log');
}

/**
 * Runs a machine in pure emulation until it powers itself off; it is killed if the signal
 * aborts. Its processor, `max`, has AMD's SVM with nested paging, so that it has its own KVM.
 * Rejects if QEMU fails.
 */
export function runEmulatedMachine(options: EmulatedMachineOptions): Promise<void> {
  const child = spawn(options.qemu.path, machineArguments(options), {
    stdio: ['ignore', 'pipe', 'pipe'],
    // QEMU's directory for writes to a disk with snapshot=on.
    env: { ...process.env, TMPDIR: options.directory },
    signal: options.signal,
    killSignal: 'SIGKILL',
  });
  createInterface({ input: child.stdout }).on('line', (line) => options.onLine(line.trimEnd()));
  const errors: string[] = [];
  createInterface({ input: child.stderr }).on('line', (line) => errors.push(line));
  return new Promise((resolve, reject) => {
    let failure: Error | undefined;
    child.on('error', (error) => {
      failure = error;
    });
    child.on('close', (code, signal) => {
      if (failure !== undefined) reject(failure);
      else if (code === 0) resolve();
      else reject(new Error(`QEMU exited with ${code ?? signal}: ${errors.join(' ')}`));
    });
  });
}

function machineArguments(options: EmulatedMachineOptions): string[] {
  const { image, directory } = options;
  const drive = (id: string, path: string, more: string) => [
    ...['-drive', `if=none,id=${id},format=raw,cache=unsafe,file=${path}${more}`],
    ...['-device', `virtio-blk-pci,drive=${id}`],
  ];
  return [
    ...['-name', 'torpor-kvm-test', '-nodefaults', '-no-user-config', '-display', 'none'],
    ...['-machine', 'q35', '-accel', `tcg,thread=multi,tb-size=${TRANSLATION_CACHE_MIB}`],
    ...['-cpu', 'max', '-smp', String(VCPUS), '-m', `${options.memoryMiB}M`, '-no-reboot'],
    ...['-kernel', image.kernelPath, '-initrd', image.initramfsPath],
    ...['-append', 'root=/dev/vda rw console=ttyS0 panic=-1 systemd.show_status=1'],
    ...drive('host', image.diskPath, ',snapshot=on'),
    ...drive('product', options.productDiskPath, ''),
    ...['-device', 'virtio-rng-pci'],
    ...['-serial', `file:${consolePath(directory)}`],
    ...['-serial', 'stdio'],
  ];
}
