/**
 * How an operation that holds a sandbox's lock gets a row whose state it may change. No other
 * operation of a control plane is in progress then, but the agent may be working on the
 * sandbox by itself (a pause when its time to live expires), or still finish an operation of
 * an earlier control plane. That is waited for.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { isTransitional, type SandboxState, TorporError } from '@torpor/protocol';
import type { Kysely, Transaction } from 'kysely';
import type { Database, SandboxRow } from '../database/schema.ts';
import type { HostRegistry } from '../hosts/registry.ts';
import { isRecorded, settledReport } from '../hosts/report.ts';
import type { LockedWrite } from '../operations/runner.ts';
import { findOwn } from './access.ts';
import { SandboxRepository } from './repository.ts';

const POLL_MS = 100;

export interface ClaimParts {
  readonly db: Kysely<Database>;
  readonly hosts: HostRegistry;
}

export interface Claim {
  readonly teamId: string;
  readonly id: string;
  /** Throws why the operation is not possible. */
  readonly check: (row: SandboxRow) => void;
  /** Changes the row's state; undefined if the row has changed since it was checked. */
  readonly move: (
    transaction: Transaction<Database>,
    row: SandboxRow,
  ) => Promise<SandboxRow | undefined>;
}

/**
 * Checks a sandbox that nothing else changes, and changes its state. Throws what `check` and
 * `move` throw, `not_found`, `conflict` if the agent works on it for too long, and
 * `host_unavailable`.
 */
export async function claim(
  parts: ClaimParts,
  write: LockedWrite,
  { teamId, id, check, move }: Claim,
): Promise<SandboxRow> {
  for (;;) {
    const row = await settledRow(parts, write, { teamId }, id);
    check(row);
    const moved = await write((transaction) => move(transaction, row));
    if (moved !== undefined) return moved;
  }
}

/** A transition from the row's current state. */
export function moveTo(to: SandboxState): Claim['move'] {
  return (transaction, row) => new SandboxRepository(transaction).transition(row.id, row.state, to);
}

/** A sandbox of the team; its state is not transitional, except for `creating` and `destroying`. */
async function settledRow(
  { db, hosts }: ClaimParts,
  write: LockedWrite,
  team: { readonly teamId: string },
  id: string,
): Promise<SandboxRow> {
  const sandboxes = new SandboxRepository(db);
  const begun = Date.now();
  for (;;) {
    const row = await findOwn(sandboxes, team, id);
    if (!isMoving(row.state)) return row;
    const host = hosts.connection(row.host_id);
    const waitedMs = Date.now() - begun;
    if (waitedMs > host.guestStartTimeoutMs()) throw stillMoving(row, waitedMs);
    const report = settledReport(row, await host.fetchSandboxInfo(id));
    if (isRecorded(row, report)) await delay(POLL_MS);
    else await write((transaction) => new SandboxRepository(transaction).recordChange(row, report));
  }
}

export function stillMoving(row: SandboxRow, waitedMs: number): TorporError {
  const seconds = Math.round(waitedMs / 1000);
  return new TorporError(
    'conflict',
    `Sandbox ${row.id} is still ${row.state} after ${seconds} s.`,
    {
      remedy: 'Try again later.',
    },
  );
}

/** A sandbox that is `creating` or `destroying` can only be destroyed. */
function isMoving(state: SandboxState): boolean {
  return isTransitional(state) && state !== 'creating' && state !== 'destroying';
}
