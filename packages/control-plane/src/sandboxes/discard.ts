import { TorporError } from '@torpor/protocol';
import type { Transaction } from 'kysely';
import type { Logger } from 'pino';
import type { Database } from '../database/schema.ts';
import { publicMessage } from '../errors/public-error.ts';
import type { HostConnection } from '../hosts/connection.ts';
import { storableText } from '../validation/text.ts';
import { destroyOnHost } from './destroy.ts';
import { SandboxRepository } from './repository.ts';

interface Parts {
  readonly host: HostConnection;
  readonly logger: Logger;
  readonly fence: bigint;
}

/**
 * After a failed create: a partly created sandbox must not keep using the host. The returned
 * function writes the outcome: `error`, or `destroying` if the host did not confirm; then
 * the reconciler retries.
 */
export async function discard(
  parts: Parts,
  id: string,
  error: TorporError,
): Promise<(transaction: Transaction<Database>) => Promise<void>> {
  const to = (await isRemoved(parts, id)) ? 'error' : 'destroying';
  return async (transaction) => {
    const reason = storableText(publicMessage(error));
    await new SandboxRepository(transaction).transition(id, 'creating', to, { reason });
  };
}

/** Whether the host has confirmed that it has nothing of a sandbox. By the fence it does not make it later. */
export async function isRemoved({ host, logger, fence }: Parts, id: string): Promise<boolean> {
  try {
    await destroyOnHost(host, id, fence);
    return true;
  } catch (reason) {
    const err = TorporError.from(reason);
    logger.warn({ sandbox: id, err }, 'Could not remove what a failed create left');
    return false;
  }
}
