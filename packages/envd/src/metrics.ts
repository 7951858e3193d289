import { readFile, statfs } from 'node:fs/promises';
import { cpus } from 'node:os';

/** The response of `/metrics`; in bytes, unless the name has another unit. */
export interface MetricsReport {
  /** Seconds since 1970. */
  readonly ts: number;
  readonly cpu_count: number;
  /** Of all processors together, 0 to 100, since the last report or the last second. */
  readonly cpu_used_pct: number;
  readonly mem_total: number;
  /** Memory in use: neither free nor reclaimable. */
  readonly mem_used: number;
  readonly mem_cache: number;
  readonly disk_used: number;
  readonly disk_total: number;
}

interface CpuTimes {
  readonly busy: number;
  readonly total: number;
}

/** Readings closer together than this are too inaccurate: the last percentage is repeated. */
const MIN_INTERVAL_MS = 250;

/** The load of the whole guest, from /proc and the root file system. */
export class Metrics {
  #last: CpuTimes | undefined;
  #lastMs = 0;
  #cpuUsedPct = 0;

  async read(): Promise<MetricsReport> {
    const [stat, meminfo, disk] = await Promise.all([
      readFile('/proc/stat', 'utf8'),
      readFile('/proc/meminfo', 'utf8'),
      statfs('/'),
    ]);
    this.#measureCpu(stat);
    const memory = parseMeminfo(meminfo);
    const total = memory.get('MemTotal') ?? 0;
    const used = total - (memory.get('MemAvailable') ?? 0);
    return {
      ts: Math.floor(Date.now() / 1000),
      cpu_count: cpus().length,
      cpu_used_pct: this.#cpuUsedPct,
      mem_total: total,
      mem_used: used,
      mem_cache: (memory.get('Cached') ?? 0) + (memory.get('Buffers') ?? 0),
      disk_used: (disk.blocks - disk.bfree) * disk.bsize,
      disk_total: disk.blocks * disk.bsize,
    };
  }

  #measureCpu(stat: string): void {
    const now = performance.now();
    if (this.#last !== undefined && now - this.#lastMs < MIN_INTERVAL_MS) return;
    const times = parseCpuTimes(stat);
    const before = this.#last ?? { busy: 0, total: 0 };
    const total = times.total - before.total;
    // Counters can decrease when a guest is restored.
    const share = total > 0 ? (times.busy - before.busy) / total : 0;
    this.#cpuUsedPct = Math.round(Math.min(1, Math.max(0, share)) * 10_000) / 100;
    this.#last = times;
    this.#lastMs = now;
  }
}

/** The first line of proc_stat(5). */
function parseCpuTimes(stat: string): CpuTimes {
  const [, ...fields] = (stat.split('\n', 1)[0] ?? '').split(/\s+/).map(Number);
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] =
    fields;
  const busy = user + nice + system + irq + softirq + steal;
  return { busy, total: busy + idle + iowait };
}

/** proc_meminfo(5), in bytes. */
function parseMeminfo(meminfo: string): Map<string, number> {
  const entries = new Map<string, number>();
  for (const line of meminfo.split('\n')) {
    const [, name, kibibytes] = /^(\w+):\s+(\d+) kB$/.exec(line) ?? [];
    if (name !== undefined) entries.set(name, Number(kibibytes) * 1024);
  }
  return entries;
}
