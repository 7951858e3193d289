/** `3m`: time since an RFC 3339 instant, in its largest unit. */
export function formatAge(instant: string, now: number = Date.now()): string {
  const seconds = Math.max(0, Math.round((now - Date.parse(instant)) / 1000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

/** `10m`: seconds in the form of an option, in the largest unit that is exact. */
export function formatDuration(seconds: number): string {
  const units = { d: 86_400, h: 3600, m: 60 };
  const exact = Object.entries(units).find(([, length]) => seconds % length === 0);
  return exact === undefined ? `${seconds}s` : `${seconds / exact[1]}${exact[0]}`;
}

/** `job=42 owner=me`: labels in the form of options. */
export function formatLabels(metadata: Readonly<Record<string, string>>): string {
  return Object.entries(metadata)
    .map(([name, value]) => `${name}=${value}`)
    .join(' ');
}
