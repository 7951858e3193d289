import { readdir, readFile } from 'node:fs/promises';
import { identifyProcess, type ProcessIdentity, signalProcess } from '@torpor/linux';
import { removeRunFiles } from './qemu-machine.ts';
import { runFiles } from './run-files.ts';

/**
 * Ends every VMM that was started for a run directory, and removes its sockets;
 * idempotent. A driver that was killed between the start of a VMM and the moment
 * when its pid was recorded leaves one that is known by its command line only.
 * Returns the processes that were sent SIGKILL.
 */
export async function killLeftovers(runDirectory: string): Promise<ProcessIdentity[]> {
  const mark = `path=${runFiles(runDirectory).control.replaceAll(',', ',,')},`;
  const killed: ProcessIdentity[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    // The identity comes first: were the pid recycled now, the signal would go nowhere.
    const identity = identifyProcess(Number(name));
    if (identity === undefined || !(await commandLineHolds(identity.pid, mark))) continue;
    if (signalProcess(identity, 'SIGKILL')) killed.push(identity);
  }
  await removeRunFiles(runDirectory);
  return killed;
}

async function commandLineHolds(pid: number, mark: string): Promise<boolean> {
  try {
    return (await readFile(`/proc/${pid}/cmdline`)).includes(mark);
  } catch {
    // It has exited in the meantime.
    return false;
  }
}
