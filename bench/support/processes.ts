import { readdir, readFile } from 'node:fs/promises';

export interface ProcessInfo {
  readonly pid: number;
  readonly parent: number;
  readonly commandLine: string;
}

/** The processes of this machine; those that end meanwhile are left out. */
export async function listProcesses(): Promise<ProcessInfo[]> {
  const found: ProcessInfo[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const commandLine = await readFile(`/proc/${name}/cmdline`, 'utf8');
      const stat = await readFile(`/proc/${name}/stat`, 'utf8');
      // The name in parentheses may contain anything; fields count from its end (proc_pid_stat(5)).
      const [, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      found.push({ pid: Number(name), parent: Number(parent), commandLine });
    } catch {
      // It ended.
    }
  }
  return found;
}

/** A process's share of the machine's memory, in MiB: pages that n processes map count 1/n. */
export async function proportionalSetSize(pid: number): Promise<number> {
  return parsePss(await readFile(`/proc/${pid}/smaps_rollup`, 'utf8'));
}

/** From the text of smaps_rollup (proc_pid_smaps_rollup(5)): MiB. */
export function parsePss(text: string): number {
  const [, kib] = /^Pss:\s+(\d+) kB$/m.exec(text) ?? [];
  if (kib === undefined) throw new Error('There is no Pss in this smaps_rollup.');
  return Number(kib) / 1024;
}
