import { assertTransition, TorporError } from '@torpor/protocol';
import type { HostContext } from '../host-context.ts';
import { adoptMachine } from '../machine/adopt.ts';
import type { RunningMachine } from '../machine/running-machine.ts';
import { type SandboxRecord, writeRecord } from '../registry/record.ts';

/** A sandbox found at start-up, with its machine if it runs. */
export interface RecoveredSandbox {
  readonly record: SandboxRecord;
  readonly machine?: RunningMachine;
}

/** Adopts the machine of a sandbox. If that fails, the sandbox becomes `error` with the reason. */
export async function adopt(host: HostContext, record: SandboxRecord): Promise<RecoveredSandbox> {
  const { id, machine: description, slot, memory } = record;
  try {
    const machine =
      description === undefined || slot === undefined
        ? undefined
        : await adoptMachine(host, {
            id,
            description,
            slotIndex: slot.index,
            base: memory?.base ?? { kind: 'unknown' },
            servedAs: memory?.servedAs,
          });
    if (machine === undefined) {
      return await fail(host, record, 'The VMM exited while no host agent was running.');
    }
    host.logger.info({ sandbox: id }, 'Sandbox adopted');
    return { record, machine };
  } catch (error) {
    const why = TorporError.from(error).message;
    return await fail(host, record, `The host agent could not adopt the sandbox: ${why}`);
  }
}

export async function fail(
  host: HostContext,
  record: SandboxRecord,
  reason: string,
): Promise<RecoveredSandbox> {
  assertTransition(record.id, record.state, 'error');
  const failed: SandboxRecord = { ...record, state: 'error', reason };
  await remember(host, failed);
  host.logger.warn({ sandbox: record.id, reason }, 'Sandbox lost');
  return { record: failed };
}

/** Writes a record. On a full disk the old one is kept, and the next start has the same result. */
export async function remember(host: HostContext, record: SandboxRecord): Promise<void> {
  try {
    await writeRecord(host.layout.recordFile(record.id), record);
  } catch (error) {
    host.logger.error({ sandbox: record.id, err: error }, 'Record not written');
  }
}
