import { isId, REMEDIES, type SandboxState, TorporError } from '@torpor/protocol';
import type { Principal } from '../auth/principal.ts';
import type { SandboxRow } from '../database/schema.ts';
import type { SandboxRepository } from './repository.ts';

/** A sandbox of the principal's team. Throws `not_found`, also for one of another team. A stopped one is still found. */
export async function findOwn(
  sandboxes: SandboxRepository,
  principal: Pick<Principal, 'teamId'>,
  id: string,
): Promise<SandboxRow> {
  const row = isId('sandbox', id) ? await sandboxes.find(principal.teamId, id) : undefined;
  if (row !== undefined) return row;
  throw new TorporError('not_found', `There is no sandbox ${JSON.stringify(id.slice(0, 64))}.`, {
    remedy: REMEDIES.listSandboxes,
  });
}

/**
 * The error if a sandbox is not in a state that an operation requires, for example "running".
 * `remedies` override the general remedy of a state.
 */
export function notInState(
  row: SandboxRow,
  wanted: string,
  remedies: Partial<Record<SandboxState, string>> = {},
): TorporError {
  if (row.state === 'stopped') {
    return new TorporError('invalid_state', `Sandbox ${row.id} has been destroyed.`, {
      remedy: REMEDIES.createSandbox,
    });
  }
  const why = row.reason === null ? '' : `: ${row.reason}`;
  if (row.state === 'unreachable') {
    return new TorporError(
      'host_unavailable',
      `The host of sandbox ${row.id} does not respond; the sandbox may still be running.`,
      { remedy: REMEDIES.startItsHost },
    );
  }
  const remedy = remedies[row.state] ?? generalRemedy(row);
  return new TorporError(
    'invalid_state',
    `Sandbox ${row.id} is not ${wanted}, it is ${row.state}${why === '' ? '.' : why}`,
    remedy === undefined ? {} : { remedy },
  );
}

/** Throws `host_unavailable` for a sandbox whose host does not respond: before it is called, which may take long. */
export function requireReachable(row: SandboxRow): void {
  if (row.state === 'unreachable') throw notInState(row, 'reachable');
}

/** Undefined if nothing needs to be done. */
function generalRemedy({ state, build_id }: SandboxRow): string | undefined {
  if (state === 'paused') return REMEDIES.resume;
  if (state === 'missing') return REMEDIES.destroy;
  if (state !== 'error') return undefined;
  return build_id === null ? REMEDIES.readConsoleThenDestroy : REMEDIES.resumeFromBuild;
}
