/**
 * The one way to change a sandbox or a snapshot, for one resource or many:
 *
 * 1. take the locks of all resources; what an abandoned operation left of one is settled;
 * 2. `begin`: check, and write the transitional states in one transaction. What is
 *    refused here has changed nothing and is no event;
 * 3. `perform`: call the host agent;
 * 4. `complete`: in one transaction write what the agent says, the events of it in the
 *    outbox, and give the locks back;
 * 5. or, if 3 or 4 failed, `settle`: ask the agent how far it came, and write that with
 *    the events of the failure in one transaction;
 * 6. `finish`: what may be lost in a crash, because a sweeper does it later.
 *
 * 5 and 6 may remove something from the host. So 5 confirms the leases first, and 6 is done
 * only by the process that has written the outcome.
 *
 * A process that dies in any of these steps leaves its leases. When they expire, any
 * control plane settles what they were for ({@link OperationRunner.recover}). An operation
 * does not belong to its caller's connection: it continues when the caller hangs up.
 */
import { TorporError } from '@torpor/protocol';
import type { Kysely, Transaction } from 'kysely';
import type { Logger } from 'pino';
import type { Database, OperationKind, OperationStatus } from '../database/schema.ts';
import { isCommitted } from '../database/transactions.ts';
import { appendEvents, type OutboxEvent } from '../events/outbox.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { AbandonedLease, HeldLocks, Intent, OperationLocks } from './locks.ts';

type Write = Transaction<Database>;

/** What an operation did to one of its resources. */
export interface ResourceEvent extends Pick<OutboxEvent, 'resource' | 'teamId' | 'metadata'> {
  readonly status: OperationStatus;
}

export interface Completion<R> {
  readonly result: R;
  readonly events: readonly ResourceEvent[];
}

/** Runs a transaction in which the locks are confirmed first. */
export type LockedWrite = <T>(write: (transaction: Write) => Promise<T>) => Promise<T>;

/** What an abandoned operation left: writes it, and returns the events of it. */
export type Settlement = (transaction: Write) => Promise<readonly ResourceEvent[]>;

export interface AbandonedOperation {
  readonly resource: string;
  readonly intent: Intent;
  /** Whether to wait for an agent that is still at work on it; `conflict` is thrown otherwise. */
  readonly wait: boolean;
}

/** Looks at what an operation left of a resource, outside of a transaction, and returns what is to be written. */
export type Recovery = (abandoned: AbandonedOperation) => Promise<Settlement>;

export interface Operation<Subject, Answer, Result> extends Intent {
  /** What is locked. */
  readonly resources: readonly string[];
  begin(write: LockedWrite): Promise<Subject>;
  perform(subject: Subject): Promise<Answer>;
  complete(transaction: Write, subject: Subject, answer: Answer): Promise<Completion<Result>>;
  settle(subject: Subject, error: TorporError): Promise<Settlement>;
  finish?(subject: Subject, result: Result | undefined): Promise<void>;
  /** The error for the caller, where another than that of the step. */
  explain?(subject: Subject, error: TorporError): TorporError;
}

interface KindOfOperation {
  /** Label of the metric; undefined for what is not measured. */
  readonly metric: string | undefined;
  readonly succeeded: string;
  readonly failed: string;
}

const KINDS: Readonly<Record<OperationKind, KindOfOperation>> = {
  'sandbox.create': {
    metric: 'create',
    succeeded: 'Sandbox created',
    failed: 'Could not create the sandbox',
  },
  'sandbox.destroy': {
    metric: 'destroy',
    succeeded: 'Sandbox destroyed',
    failed: 'Could not destroy the sandbox',
  },
  'sandbox.adopt': {
    metric: undefined,
    succeeded: 'Sandbox adopted',
    failed: 'Could not adopt the sandbox',
  },
  'sandbox.pause': {
    metric: 'pause',
    succeeded: 'Sandbox paused',
    failed: 'Could not pause the sandbox',
  },
  'sandbox.resume': {
    metric: 'resume',
    succeeded: 'Sandbox resumed',
    failed: 'Could not resume the sandbox',
  },
  'sandbox.fork': {
    metric: 'fork',
    succeeded: 'Sandbox forked',
    failed: 'Could not fork the sandbox',
  },
  'sandbox.fail': {
    metric: undefined,
    succeeded: 'Sandbox failed',
    failed: 'Sandbox failed',
  },
  'sandbox.lose': {
    metric: undefined,
    succeeded: 'Sandbox is missing',
    failed: 'Sandbox is missing',
  },
  'sandbox.find': {
    metric: undefined,
    succeeded: 'Sandbox is back',
    failed: 'Sandbox is not back',
  },
  'snapshot.create': {
    metric: 'snapshot',
    succeeded: 'Snapshot created',
    failed: 'Could not create the snapshot',
  },
  'snapshot.delete': {
    metric: undefined,
    succeeded: 'Snapshot deleted',
    failed: 'Could not delete the snapshot',
  },
};

export interface RunnerParts {
  readonly db: Kysely<Database>;
  readonly locks: OperationLocks;
  readonly metrics: Metrics;
  readonly logger: Logger;
  /** Called after a transaction with events. */
  readonly onEvents: () => void;
}

export class OperationRunner {
  readonly #parts: RunnerParts;
  readonly #recoveries: { readonly prefix: string; readonly recovery: Recovery }[] = [];

  constructor(parts: RunnerParts) {
    this.#parts = parts;
  }

  /** How to settle what an abandoned operation left of the resources with this prefix. */
  registerRecovery(prefix: string, recovery: Recovery): void {
    this.#recoveries.push({ prefix, recovery });
  }

  /** Throws what `begin` throws, before anything has changed, or what the failure of a later step was. */
  run<Subject, Answer, Result>(operation: Operation<Subject, Answer, Result>): Promise<Result> {
    return this.#locked(operation.resources, operation, async (held) => {
      const subject = await operation.begin((write) => this.#write(held, write));
      held.state = 'unfinished';
      let result: Result | undefined;
      try {
        result = await this.#carryOut(held, operation, subject);
        return result;
      } finally {
        await this.#finish(held, operation, subject, result);
      }
    });
  }

  /** Runs `look` while nothing else changes the resource. What it writes is no operation of its own. */
  look<T>(resource: string, intent: Intent, look: (write: LockedWrite) => Promise<T>): Promise<T> {
    return this.#locked([resource], intent, (held) => look((write) => this.#write(held, write)));
  }

  /**
   * Settles what an operation left of a resource, as far as it was abandoned: one that is
   * under way is left alone. `intent`: what it was, if there is no lease that says so.
   * Throws `host_unavailable`, or `conflict` if the agent is still at work on it.
   */
  recover(resource: string, intent: Intent): Promise<void> {
    return this.#recoverAs(resource, intent, intent);
  }

  /** The same, and nothing if another control plane has settled it since its lease was read. */
  recoverLease({ resource, intent }: AbandonedLease): Promise<void> {
    return this.#recoverAs(resource, intent, undefined);
  }

  async #recoverAs(resource: string, intent: Intent, unleased: Intent | undefined): Promise<void> {
    await this.#parts.locks.tryRun(resource, intent, async (held) => {
      const abandoned = held.leases[0]?.abandoned ?? unleased;
      if (abandoned === undefined) return;
      await this.#recover(held, { resource, intent: abandoned, wait: false }, intent);
      held.state = 'clean';
    });
  }

  /** Takes the locks, and settles what was abandoned. */
  #locked<T>(
    resources: readonly string[],
    intent: Intent,
    operation: (held: HeldLocks) => Promise<T>,
  ): Promise<T> {
    return this.#parts.locks.run(resources, intent, async (held) => {
      for (const { resource, abandoned } of held.leases) {
        if (abandoned === undefined) continue;
        await this.#recover(held, { resource, intent: abandoned, wait: true }, intent);
      }
      held.state = 'clean';
      return operation(held);
    });
  }

  async #carryOut<Subject, Answer, Result>(
    held: HeldLocks,
    operation: Operation<Subject, Answer, Result>,
    subject: Subject,
  ): Promise<Result> {
    const finished = this.#parts.metrics.startOperation(KINDS[operation.kind].metric);
    try {
      const answer = await operation.perform(subject);
      const { result, events } = await this.#conclude(held, operation, (transaction) =>
        operation.complete(transaction, subject, answer),
      );
      finished('success');
      this.#log(operation, events);
      return result;
    } catch (reason) {
      const error = TorporError.from(reason);
      finished(error.code);
      await this.#settle(held, operation, subject, error);
      throw operation.explain?.(subject, error) ?? error;
    }
  }

  async #settle<Subject, Answer, Result>(
    held: HeldLocks,
    operation: Operation<Subject, Answer, Result>,
    subject: Subject,
    error: TorporError,
  ): Promise<void> {
    try {
      // To settle may destroy on the host what by now is another's, or has been handed out.
      await this.#write(held, async () => undefined);
      const settlement = await operation.settle(subject, error);
      const { events } = await this.#conclude(held, operation, async (transaction) => ({
        result: undefined,
        events: withCode(await settlement(transaction), error),
      }));
      this.#log(operation, events, error);
    } catch (reason) {
      this.#parts.logger.error(
        { resources: operation.resources, err: error, cause: TorporError.from(reason) },
        `${KINDS[operation.kind].failed}, nor record it; the operation is left to its recovery`,
      );
    }
  }

  /** Without an outcome that was written here, finishing is left to the control plane that settles the operation. */
  async #finish<Subject, Answer, Result>(
    { state }: HeldLocks,
    operation: Operation<Subject, Answer, Result>,
    subject: Subject,
    result: Result | undefined,
  ): Promise<void> {
    if (state !== 'released') return;
    try {
      await operation.finish?.(subject, result);
    } catch (reason) {
      const err = TorporError.from(reason);
      const { resources, kind } = operation;
      this.#parts.logger.warn({ resources, operation: kind, err }, 'Left something to a sweeper');
    }
  }

  /**
   * The last write of an operation: with its events, and the end of its leases. Whether it
   * was committed is asked for where the connection broke before that was answered.
   */
  async #conclude<R>(
    held: HeldLocks,
    { kind, actor }: Intent,
    write: (transaction: Write) => Promise<Completion<R>>,
  ): Promise<Completion<R>> {
    const { locks, onEvents } = this.#parts;
    let last: { readonly id: string; readonly written: Completion<R> } | undefined;
    const conclude = this.#write(held, async (transaction) => {
      const written = await write(transaction);
      await appendEvents(
        transaction,
        written.events.map((event) => ({ kind, actor, ...event })),
      );
      last = { id: await locks.release(transaction, held), written };
      return written;
    });
    const completion = await conclude.catch(async (reason: unknown) => {
      if (last !== undefined && (await this.#isCommitted(last.id))) return last.written;
      throw reason;
    });
    held.state = 'released';
    if (completion.events.length > 0) onEvents();
    return completion;
  }

  /** False also where the database does not respond: then its row says so later. */
  async #isCommitted(transactionId: string): Promise<boolean> {
    try {
      return await isCommitted(this.#parts.db, transactionId);
    } catch (reason) {
      const err = TorporError.from(reason);
      this.#parts.logger.warn({ err }, 'Could not find out whether a transaction was committed');
      return false;
    }
  }

  async #recover(held: HeldLocks, abandoned: AbandonedOperation, next: Intent): Promise<void> {
    const { locks, onEvents, logger } = this.#parts;
    const { resource, intent } = abandoned;
    const recovery = this.#recoveries.find(({ prefix }) => resource.startsWith(prefix))?.recovery;
    const settlement = await recovery?.(abandoned);
    const events = await this.#write(held, async (transaction) => {
      const { kind, actor } = intent;
      const recovered = ((await settlement?.(transaction)) ?? []).map((event) => ({
        kind,
        actor,
        ...event,
        metadata: { ...event.metadata, recovered: 'true' },
      }));
      await appendEvents(transaction, recovered);
      await locks.takeOver(transaction, held, resource, next);
      return recovered;
    });
    if (events.length > 0) onEvents();
    const status = events[0]?.status;
    logger.warn({ resource, operation: intent.kind, status }, 'Abandoned operation settled');
  }

  #write<T>(held: HeldLocks, write: (transaction: Write) => Promise<T>): Promise<T> {
    return this.#parts.db.transaction().execute(async (transaction) => {
      await this.#parts.locks.confirm(transaction, held);
      return write(transaction);
    });
  }

  #log({ kind }: Intent, events: readonly ResourceEvent[], error?: TorporError): void {
    const { logger } = this.#parts;
    const field = kind.startsWith('snapshot.') ? 'snapshot' : 'sandbox';
    for (const { resource, status, metadata } of events) {
      const fields = { ...metadata, [field]: resource };
      if (status === 'success') logger.info(fields, KINDS[kind].succeeded);
      else logger.error({ ...fields, err: error }, KINDS[kind].failed);
    }
  }
}

function withCode(events: readonly ResourceEvent[], { code }: TorporError): ResourceEvent[] {
  return events.map((event) => ({ ...event, metadata: { ...event.metadata, code } }));
}
