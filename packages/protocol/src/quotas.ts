/** What a team can have only so much of, each with what is counted. */
export const QUOTAS = {
  running_sandboxes: 'sandboxes that run, or are about to',
  vcpus: 'virtual CPUs of running sandboxes',
  memory_mb: 'memory of running sandboxes, in MiB',
  disk_mb: 'the disks of all sandboxes and what snapshots occupy, in MiB',
  snapshots: 'snapshots',
  api_keys: 'API keys',
  webhooks: 'webhooks',
} as const;

export type QuotaName = keyof typeof QUOTAS;

export const QUOTA_NAMES = Object.keys(QUOTAS) as [QuotaName, ...QuotaName[]];

/** The most of each that a team may have; null means no limit. */
export type QuotaLimits = Readonly<Record<QuotaName, number | null>>;

export function isQuotaName(name: string): name is QuotaName {
  return Object.hasOwn(QUOTAS, name);
}
