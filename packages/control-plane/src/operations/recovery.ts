import { TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import { PeriodicTask } from '../jobs/periodic-task.ts';
import type { AbandonedLease, OperationLocks } from './locks.ts';
import type { OperationRunner } from './runner.ts';

interface Parts {
  readonly locks: OperationLocks;
  readonly runner: OperationRunner;
  readonly logger: Logger;
  /** How often to look; three times per lease if omitted. */
  readonly intervalMs?: number | undefined;
}

/** Periodically settles the abandoned operations of control planes that died. */
export function startOperationRecovery(parts: Parts): AsyncDisposable {
  const { locks, logger, intervalMs = locks.leaseMs / 3 } = parts;
  const failure = 'Could not look for abandoned operations';
  return new PeriodicTask({ intervalMs, logger, failure }, async () => {
    const abandoned = await locks.abandoned();
    await Promise.all(abandoned.map((lease) => recover(parts, lease)));
  });
}

async function recover({ runner, logger }: Parts, lease: AbandonedLease): Promise<void> {
  try {
    await runner.recoverLease(lease);
  } catch (reason) {
    const err = TorporError.from(reason);
    logger.warn(
      { err, resource: lease.resource },
      'Could not settle an abandoned operation; will retry',
    );
  }
}
