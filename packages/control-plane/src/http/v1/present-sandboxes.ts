import type { rest } from '@torpor/protocol';
import type { SandboxRow } from '../../database/schema.ts';
import { publicMessage } from '../../errors/public-error.ts';
import type { PhaseTiming } from '../../hosts/timings.ts';
import type { Fork } from '../../sandboxes/fork.ts';
import type { OperatedSandbox } from '../../sandboxes/parts.ts';
import type { SandboxPage } from '../../sandboxes/service.ts';
import { encodePageToken } from './page-token.ts';
import { SANDBOX_POSITIONS } from './sandbox-input.ts';

/** A sandbox as the REST API shows it. */
export function presentSandbox(
  row: SandboxRow,
  timings: readonly PhaseTiming[] = [],
): rest.Sandbox {
  return {
    id: row.id,
    status: row.state,
    ...(row.reason === null ? {} : { reason: row.reason }),
    template: row.template,
    vcpus: row.vcpus,
    memory_mb: row.memory_mb,
    ...(row.disk_size_mb === null ? {} : { disk_size_mb: row.disk_size_mb }),
    timeout_sec: row.timeout_sec,
    auto_pause: row.auto_pause,
    allow_internet: row.allow_internet,
    ...(row.build_id === null ? {} : { build_id: row.build_id }),
    ...(row.host_ip === null ? {} : { host_ip: row.host_ip }),
    created_at: row.created_at.toISOString(),
    ...(row.started_at === null ? {} : { started_at: row.started_at.toISOString() }),
    ...(row.last_active_at === null ? {} : { last_active_at: row.last_active_at.toISOString() }),
    last_updated: row.updated_at.toISOString(),
    ...(row.ended_at === null ? {} : { ended_at: row.ended_at.toISOString() }),
    metadata: row.metadata,
    versions: row.versions,
    ...(timings.length === 0 ? {} : { timings: [...timings] }),
  };
}

/** A sandbox with the phases of the operation that was requested. */
export function presentOperated({ row, timings }: OperatedSandbox): rest.Sandbox {
  return presentSandbox(row, timings);
}

export function presentPage({ rows, next }: SandboxPage): rest.SandboxList {
  return {
    sandboxes: rows.map((row) => presentSandbox(row)),
    ...(next === undefined ? {} : { next_token: encodePageToken(SANDBOX_POSITIONS, next) }),
  };
}

export function presentFork({ children, timings }: Fork): rest.ForkResult {
  return {
    children: children.map(({ row, error }) =>
      row === undefined
        ? { error: { code: error.code, message: publicMessage(error) } }
        : { sandbox: presentSandbox(row) },
    ),
    timings: [...timings],
  };
}
