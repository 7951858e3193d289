/**
 * The agent is the authority on what a sandbox is doing; this is how its word gets
 * into a row.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type hostAgent, isSandboxState, type SandboxState, TorporError } from '@torpor/protocol';
import type { Principal } from '../auth/api-keys.ts';
import type { SandboxChanges, SandboxRow } from '../database/schema.ts';
import { agentCall, type Host } from '../hosts/host.ts';
import { findOwn } from './access.ts';
import type { SandboxRepository } from './repository.ts';

const CALL_TIMEOUT_MS = 15_000;
const SETTLE_POLL_MS = 100;

/** States that a sandbox leaves by itself. */
const MOVING: readonly SandboxState[] = ['pausing', 'resuming', 'snapshotting'];

export const LOST_REASON = 'The host does not have this sandbox any more.';

interface Parts {
  readonly host: Host;
  readonly sandboxes: SandboxRepository;
}

/** The columns that the agent decides on. Throws `internal_error` for a state that does not exist. */
export function changesFrom(info: hostAgent.SandboxInfo): SandboxChanges & { state: SandboxState } {
  if (!isSandboxState(info.status)) {
    throw new TorporError(
      'internal_error',
      `The host agent reports the state ${JSON.stringify(info.status)}, which does not exist.`,
    );
  }
  return {
    state: info.status,
    reason: info.reason ?? null,
    host_ip: info.hostIp ?? null,
    build_id: info.buildId ?? null,
  };
}

/** What the agent knows of a sandbox now; undefined if nothing. Throws `host_unavailable`. */
export async function presentInfo(
  host: Host,
  id: string,
): Promise<hostAgent.SandboxInfo | undefined> {
  try {
    const answer = await agentCall(() =>
      host.client.getSandbox({ sandboxId: id }, { timeoutMs: CALL_TIMEOUT_MS }),
    );
    return answer.sandbox;
  } catch (reason) {
    const error = TorporError.from(reason);
    if (error.code === 'not_found') return undefined;
    throw error;
  }
}

/** Makes a row say what the agent says. Throws `host_unavailable`; the row is then as it was. */
export async function mirrorHost({ host, sandboxes }: Parts, id: string): Promise<void> {
  const info = await presentInfo(host, id);
  await sandboxes.update(
    id,
    info === undefined ? { state: 'error', reason: LOST_REASON } : changesFrom(info),
  );
}

/**
 * A sandbox of the principal's team that is not on its way from one state to another.
 * Called within an operation of the sandbox, so what moves it is not this process: the
 * agent does so itself (a pause at the end of its time to live), or finishes what an
 * earlier control plane began. That is waited for. Throws `not_found`, `conflict` if
 * it takes too long, `host_unavailable`.
 */
export async function settledRow(
  parts: Parts,
  principal: Pick<Principal, 'teamId'>,
  id: string,
): Promise<SandboxRow> {
  const deadline = Date.now() + parts.host.guestStartTimeoutMs();
  for (;;) {
    const row = await findOwn(parts.sandboxes, principal, id);
    if (!MOVING.includes(row.state)) return row;
    if (Date.now() > deadline) {
      throw new TorporError('conflict', `Sandbox ${id} has been ${row.state} for long.`, {
        remedy: 'Try again later.',
      });
    }
    await mirrorHost(parts, id);
    await delay(SETTLE_POLL_MS);
  }
}
