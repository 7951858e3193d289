import type { NewSandboxRow } from '../database/schema.ts';

/** What is known of a sandbox before its host has it. */
type Given = Pick<
  NewSandboxRow,
  | 'id'
  | 'team_id'
  | 'host_id'
  | 'template'
  | 'vcpus'
  | 'memory_mb'
  | 'disk_size_mb'
  | 'timeout_sec'
  | 'auto_pause'
  | 'allow_internet'
  | 'default_user'
> & {
  readonly default_env: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
};

/** The row of a sandbox that is to be made. */
export function newSandboxRow(given: Given): NewSandboxRow {
  const now = new Date();
  return {
    ...given,
    default_env: JSON.stringify(given.default_env),
    metadata: JSON.stringify(given.metadata),
    state: 'creating',
    reason: null,
    build_id: null,
    host_ip: null,
    versions: '{}',
    created_at: now,
    started_at: null,
    last_active_at: null,
    updated_at: now,
    ended_at: null,
  };
}
