import { join } from 'node:path';

/** The files of one machine in its run directory. */
export interface RunFiles {
  /** Control socket (QMP). */
  readonly control: string;
  /** Socket of the serial console. */
  readonly console: string;
  /** What QEMU prints on standard output and error, bounded. */
  readonly output: string;
  /** Device state on its way in or out: QEMU, unprivileged, reaches it by a descriptor that it inherits. */
  readonly state: string;
}

export function runFiles(runDirectory: string): RunFiles {
  return {
    control: join(runDirectory, 'qmp.sock'),
    console: join(runDirectory, 'console.sock'),
    output: join(runDirectory, 'qemu.log'),
    state: join(runDirectory, 'state'),
  };
}

/** The descriptor under which QEMU inherits {@link RunFiles.state}. */
export const STATE_FD = 3;
