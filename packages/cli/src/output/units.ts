/** `1.5 MiB`: bytes for people. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** `3m`: time since an RFC 3339 instant, in its largest unit. */
export function formatAge(instant: string, now: number = Date.now()): string {
  const seconds = Math.max(0, Math.round((now - Date.parse(instant)) / 1000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

/** `10m`: seconds as an option takes them, in the largest unit that is exact. */
export function formatDuration(seconds: number): string {
  const units = { d: 86_400, h: 3600, m: 60 };
  const exact = Object.entries(units).find(([, length]) => seconds % length === 0);
  return exact === undefined ? `${seconds}s` : `${seconds / exact[1]}${exact[0]}`;
}

/** `job=42 owner=me`: labels as options take them. */
export function formatLabels(metadata: Readonly<Record<string, string>>): string {
  return Object.entries(metadata)
    .map(([name, value]) => `${name}=${value}`)
    .join(' ');
}
