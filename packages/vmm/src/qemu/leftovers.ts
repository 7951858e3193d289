import { readdir, readFile } from 'node:fs/promises';
import { identifyProcess, type ProcessIdentity, signalProcess } from '@torpor/linux';
import { removeRunFiles } from './qemu-machine.ts';
import { runFiles } from './run-files.ts';

/**
 * Kills every QEMU that was started for a run directory, which its command line names, and
 * removes its sockets; idempotent. Returns the processes that were sent SIGKILL.
 */
export async function killQemuLeftovers(runDirectory: string): Promise<ProcessIdentity[]> {
  const mark = `path=${runFiles(runDirectory).control.replaceAll(',', ',,')},`;
  const killed: ProcessIdentity[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    // The identity is read first: if the pid is recycled after that, no signal is sent.
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
