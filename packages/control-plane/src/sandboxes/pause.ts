import { canTransition, type hostAgent } from '@torpor/protocol';
import type { Principal } from '../auth/principal.ts';
import type { SandboxRow } from '../database/schema.ts';
import { phaseTimings } from '../hosts/timings.ts';
import type { Operation } from '../operations/runner.ts';
import { notInState } from './access.ts';
import { claim, moveTo } from './claim.ts';
import {
  type OperatedSandbox,
  observe,
  onSandbox,
  requireReport,
  requireRow,
  runningDemand,
  type SandboxParts,
  sandboxEvent,
  shapeOfRow,
} from './parts.ts';
import { SandboxRepository, type TransitionChanges } from './repository.ts';

/** For writing the memory of a large sandbox to a slow disk. */
const PAUSE_TIMEOUT_MS = 10 * 60_000;

const IS_PAUSED = { paused: 'There is nothing to do: it is already paused.' };
const IS_RUNNING = { running: 'There is nothing to do: it is already running.' };
const KEEPS_TIMEOUT = {
  running: 'Pause it first: a sandbox gets a new idle timeout when it is resumed.',
};

type AgentResponse = Pick<hostAgent.PauseSandboxResponse, 'sandbox' | 'timings'>;
type OperationOnOne = Operation<SandboxRow, AgentResponse, OperatedSandbox>;

/** Frees everything that a running sandbox uses except disk space. If that fails, it keeps running. */
export function pauseOperation(
  parts: SandboxParts,
  principal: Principal,
  id: string,
): OperationOnOne {
  return {
    ...onSandbox(principal, id),
    kind: 'sandbox.pause',
    begin: (write) =>
      claim(parts, write, {
        teamId: principal.teamId,
        id,
        check: (row) => {
          if (!canTransition(row.state, 'pausing')) throw notInState(row, 'running', IS_PAUSED);
        },
        move: moveTo('pausing'),
      }),
    perform: (row, fence) =>
      parts.hosts
        .connection(row.host_id)
        .call((client) =>
          client.pauseSandbox({ sandboxId: id, fence }, { timeoutMs: PAUSE_TIMEOUT_MS }),
        ),
    ...outcomeOf(parts, id, {}),
  };
}

/**
 * Resumes a paused sandbox, or one in state `error` from its last build, with a new
 * idle timeout if one is given. If that fails, it is still paused.
 */
export function resumeOperation(
  parts: SandboxParts,
  principal: Principal,
  id: string,
  timeoutSec: number | undefined,
): OperationOnOne {
  return {
    ...onSandbox(principal, id),
    kind: 'sandbox.resume',
    begin: (write) =>
      claim(parts, write, {
        teamId: principal.teamId,
        id,
        check: (row) =>
          requireResumable(row, timeoutSec === undefined ? IS_RUNNING : KEEPS_TIMEOUT),
        move: async (transaction, row) => {
          const shape = shapeOfRow(row);
          await parts.quotas.require(transaction, row.team_id, runningDemand(shape));
          await new SandboxRepository(transaction).lock([id]);
          await parts.placement.reserveOn(transaction, row.host_id, shape);
          return new SandboxRepository(transaction).transition(id, row.state, 'resuming', {
            reason: null,
          });
        },
      }),
    perform: (row, fence) => {
      const host = parts.hosts.connection(row.host_id);
      return host.call((client) =>
        client.resumeSandbox(
          {
            sandboxId: id,
            fence,
            ...(timeoutSec === undefined ? {} : { timeoutSec }),
          },
          { timeoutMs: host.guestStartTimeoutMs() },
        ),
      );
    },
    ...outcomeOf(parts, id, timeoutSec === undefined ? {} : { timeout_sec: timeoutSec }),
  };
}

function requireResumable(row: SandboxRow, remedies: { running: string }): void {
  const canRunFromBuild = canTransition(row.state, 'resuming') && row.build_id !== null;
  if (!canRunFromBuild && row.state !== 'paused') throw notInState(row, 'paused', remedies);
}

/** The steps that both share: with the agent's response, or its error. */
function outcomeOf(
  parts: SandboxParts,
  id: string,
  changes: TransitionChanges,
): Pick<OperationOnOne, 'complete' | 'settle'> {
  return {
    complete: async (transaction, before, response) => {
      const report = requireReport(response);
      const row = await new SandboxRepository(transaction).transition(
        id,
        before.state,
        report.state,
        {
          ...report,
          ...changes,
          ...(report.state === 'running' ? { last_active_at: new Date() } : {}),
        },
      );
      return {
        result: { row: requireRow(id, row), timings: phaseTimings(response.timings) },
        events: [sandboxEvent(before, 'success')],
      };
    },
    settle: async (row, _, fence) => {
      const record = await observe(parts, id, fence);
      return async (transaction) => {
        await record(transaction);
        return [sandboxEvent(row, 'error')];
      };
    },
  };
}
