import { readdir, readFile } from 'node:fs/promises';

export interface ProcessInfo {
  readonly pid: number;
  readonly parent: number;
  readonly commandLine: string;
}

/** The processes of this machine; those that exit meanwhile are omitted. */
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
      // It has exited.
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

/** A process's unique memory, in MiB: the pages that no other process maps. */
export async function uniqueMiB(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8');
  let kib = 0;
  for (const [, size] of text.matchAll(/^Private_(?:Clean|Dirty):\s+(\d+) kB$/gm))
    kib += Number(size);
  return kib / 1024;
}

/** Ticks of utime and stime, proc_pid_stat(5): USER_HZ is 100 on x86-64. */
const TICKS_PER_SECOND = 100;

/** Processor time that a process and its threads have used. */
export async function cpuSeconds(pid: number): Promise<{ user: number; system: number }> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return {
    user: Number(fields[11]) / TICKS_PER_SECOND,
    system: Number(fields[12]) / TICKS_PER_SECOND,
  };
}

/** {@link cpuSeconds} in user and system mode together. */
export async function totalCpuSeconds(pid: number): Promise<number> {
  const { user, system } = await cpuSeconds(pid);
  return user + system;
}
