/**
 * The one way to change a sandbox or a snapshot, for one resource or many:
 *
 * 1. take the locks of all resources, and settle abandoned operations on them;
 * 2. `begin`: check, and write the transitional states in one transaction. An
 *    operation that is refused here has changed nothing and has no event;
 * 3. `perform`: confirm the locks, and call the host agent with a fence (operations/fence.ts);
 * 4. `complete`: in one transaction write what the agent returned and the events for the
 *    outbox, and release the locks;
 * 5. or, if 3 or 4 failed, `settle`: ask the agent how far it got, and write that with the
 *    events of the failure in one transaction;
 * 6. `finish`: work that a crash may prevent, because a sweeper does it later.
 *
 * 5 and 6 may remove something from the host. So 5 confirms the leases and gets a new fence first,
 * and 6 is done only by the process that has written the outcome.
 *
 * A process that dies in any of these steps leaves its leases. When they expire, any
 * control plane settles their operations ({@link OperationRunner.recover}). An operation
 * does not depend on its caller's connection: it continues when the caller disconnects.
 */
import {
  currentSpan,
  ID_PREFIXES,
  recordPart,
  type SpanAttributes,
  TorporError,
  type Tracer,
  tracePart,
  traceWork,
} from '@torpor/protocol';
import type { Kysely, Transaction } from 'kysely';
import type { Logger } from 'pino';
import type { Database, OperationKind, OperationStatus } from '../database/schema.ts';
import { isCommitted } from '../database/transactions.ts';
import { appendEvents, type OutboxEvent } from '../events/outbox.ts';
import type { Metrics } from '../observability/metrics.ts';
import { nextFence } from './fence.ts';
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

/** What can be done while a lock is held. */
export interface Locked {
  readonly write: LockedWrite;
  /** Confirms the lock, and returns a fence for a call to the agent. */
  readonly fence: () => Promise<bigint>;
}

/** Writes the outcome of an operation that did not complete, and returns its events. */
export type Settlement = (transaction: Write) => Promise<readonly ResourceEvent[]>;

export interface AbandonedOperation {
  readonly resource: string;
  readonly intent: Intent;
  /** Whether to wait if the agent is still working on it; `conflict` is thrown otherwise. */
  readonly wait: boolean;
  /** For the questions to the agent: after them it refuses a late call of the abandoned operation. */
  readonly fence: bigint;
}

/** Finds out, outside of a transaction, how far an abandoned operation got, and returns what to write. */
export type Recovery = (abandoned: AbandonedOperation) => Promise<Settlement>;

export interface Operation<Subject, AgentResponse, Result> extends Intent {
  /** The resources to lock. */
  readonly resources: readonly string[];
  begin(write: LockedWrite): Promise<Subject>;
  /** `write` is for one that turns to another host. */
  perform(subject: Subject, fence: bigint, write: LockedWrite): Promise<AgentResponse>;
  complete(
    transaction: Write,
    subject: Subject,
    response: AgentResponse,
  ): Promise<Completion<Result>>;
  settle(subject: Subject, error: TorporError, fence: bigint): Promise<Settlement>;
  finish?(subject: Subject, result: Result | undefined): Promise<void>;
  /** The error for the caller, if it is not that of the step. */
  explain?(subject: Subject, error: TorporError): TorporError;
}

interface KindOfOperation {
  /** Label of the metric; undefined if not measured. */
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
    succeeded: 'Sandbox marked as unreachable',
    failed: 'Could not mark the sandbox as unreachable',
  },
  'sandbox.find': {
    metric: undefined,
    succeeded: 'Sandbox found again',
    failed: 'Could not mark the sandbox as found',
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
  readonly tracer: Tracer;
  /** Called after a transaction that wrote events. */
  readonly onEvents: () => void;
}

export class OperationRunner {
  readonly #parts: RunnerParts;
  readonly #recoveries: { readonly prefix: string; readonly recovery: Recovery }[] = [];

  constructor(parts: RunnerParts) {
    this.#parts = parts;
  }

  /** Registers how to settle abandoned operations on resources with this prefix. */
  registerRecovery(prefix: string, recovery: Recovery): void {
    this.#recoveries.push({ prefix, recovery });
  }

  /** Throws what `begin` throws, before anything has changed, or the error of a later step. */
  run<Subject, AgentResponse, Result>(
    operation: Operation<Subject, AgentResponse, Result>,
  ): Promise<Result> {
    const { kind, resources } = operation;
    const attributes = spanAttributes(operation);
    // The request is about what its operation is about.
    currentSpan()?.set(attributes);
    return traceWork(this.#parts.tracer, kind, { attributes }, () =>
      this.#locked(resources, operation, async (held) => {
        const subject = await tracePart(`${kind}.begin`, {}, () =>
          operation.begin((write) => this.#write(held, write)),
        );
        held.state = 'unfinished';
        let result: Result | undefined;
        try {
          result = await this.#carryOut(held, operation, subject);
          return result;
        } finally {
          await this.#finish(held, operation, subject, result);
        }
      }),
    );
  }

  /** Runs `action` while nothing else changes the resource. What it writes has no events. */
  withLock<T>(
    resource: string,
    intent: Intent,
    action: (locked: Locked) => Promise<T>,
  ): Promise<T> {
    return this.#locked([resource], intent, (held) =>
      action({ write: (write) => this.#write(held, write), fence: () => this.#fence(held) }),
    );
  }

  /**
   * Settles an operation on a resource if it was abandoned; one in progress is left alone.
   * `intent` describes it if there is no lease that does. Throws `host_unavailable`, or
   * `conflict` if the agent is still working on it.
   */
  recover(resource: string, intent: Intent): Promise<void> {
    return this.#recoverAs(resource, intent, intent);
  }

  /** Like {@link recover}, but does nothing if another control plane has settled it since its lease was read. */
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

  /** Takes the locks, and settles abandoned operations. */
  #locked<T>(
    resources: readonly string[],
    intent: Intent,
    operation: (held: HeldLocks) => Promise<T>,
  ): Promise<T> {
    const queuedAt = performance.now();
    return this.#parts.locks.run(resources, intent, async (held) => {
      recordPart(`${intent.kind}.lock`, performance.now() - queuedAt);
      for (const { resource, abandoned } of held.leases) {
        if (abandoned === undefined) continue;
        await this.#recover(held, { resource, intent: abandoned, wait: true }, intent);
      }
      held.state = 'clean';
      return operation(held);
    });
  }

  async #carryOut<Subject, AgentResponse, Result>(
    held: HeldLocks,
    operation: Operation<Subject, AgentResponse, Result>,
    subject: Subject,
  ): Promise<Result> {
    const finished = this.#parts.metrics.startOperation(KINDS[operation.kind].metric);
    try {
      const { kind } = operation;
      const response = await tracePart(`${kind}.perform`, {}, async () =>
        operation.perform(subject, await this.#fence(held), (write) => this.#write(held, write)),
      );
      const { result, events } = await tracePart(`${kind}.complete`, {}, () =>
        this.#conclude(held, operation, (transaction) =>
          operation.complete(transaction, subject, response),
        ),
      );
      finished('success');
      this.#log(operation, events);
      return result;
    } catch (reason) {
      const error = TorporError.from(reason);
      finished(error.code);
      await tracePart(`${operation.kind}.settle`, {}, () =>
        this.#settle(held, operation, subject, error),
      );
      throw operation.explain?.(subject, error) ?? error;
    }
  }

  async #settle<Subject, AgentResponse, Result>(
    held: HeldLocks,
    operation: Operation<Subject, AgentResponse, Result>,
    subject: Subject,
    error: TorporError,
  ): Promise<void> {
    try {
      // Settling may destroy something on the host, which another operation may use by now.
      const fence = await this.#fence(held);
      const settlement = await operation.settle(subject, error, fence);
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

  /** If the outcome was not written here, the control plane that settles the operation does this. */
  async #finish<Subject, AgentResponse, Result>(
    { state }: HeldLocks,
    operation: Operation<Subject, AgentResponse, Result>,
    subject: Subject,
    result: Result | undefined,
  ): Promise<void> {
    if (state !== 'released' || operation.finish === undefined) return;
    try {
      await tracePart(`${operation.kind}.finish`, {}, async () =>
        operation.finish?.(subject, result),
      );
    } catch (reason) {
      const err = TorporError.from(reason);
      const { resources, kind } = operation;
      this.#parts.logger.warn(
        { resources, operation: kind, err },
        'Could not finish an operation; a sweeper will retry',
      );
    }
  }

  /**
   * The last write of an operation, with its events; it also releases the leases. If the
   * connection broke before the commit was confirmed, the database is asked for the outcome.
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

  /** False also if the database does not respond: then recovery finds the outcome later. */
  async #isCommitted(transactionId: string): Promise<boolean> {
    try {
      return await isCommitted(this.#parts.db, transactionId);
    } catch (reason) {
      const err = TorporError.from(reason);
      this.#parts.logger.warn({ err }, 'Could not find out whether a transaction was committed');
      return false;
    }
  }

  #recover(
    held: HeldLocks,
    abandoned: Omit<AbandonedOperation, 'fence'>,
    next: Intent,
  ): Promise<void> {
    const { resource, intent } = abandoned;
    const attributes = spanAttributes({ ...intent, resources: [resource] });
    return traceWork(this.#parts.tracer, `${intent.kind}.recover`, { attributes }, () =>
      this.#settleAbandoned(held, abandoned, next),
    );
  }

  async #settleAbandoned(
    held: HeldLocks,
    abandoned: Omit<AbandonedOperation, 'fence'>,
    next: Intent,
  ): Promise<void> {
    const { locks, onEvents, logger } = this.#parts;
    const { resource, intent } = abandoned;
    const recovery = this.#recoveries.find(({ prefix }) => resource.startsWith(prefix))?.recovery;
    const settlement = await recovery?.({ ...abandoned, fence: await this.#fence(held) });
    const events = await this.#write(held, async (transaction) => {
      const { kind, actor } = intent;
      const recovered = ((await settlement?.(transaction)) ?? []).map((event) => ({
        kind,
        actor,
        ...event,
        metadata: { ...event.metadata, recovered: 'true' },
      }));
      await appendEvents(transaction, recovered);
      await locks.describeAcquired(transaction, held, resource, next);
      return recovered;
    });
    if (events.length > 0) onEvents();
    const status = events[0]?.status;
    logger.warn({ resource, operation: intent.kind, status }, 'Abandoned operation settled');
  }

  #fence(held: HeldLocks): Promise<bigint> {
    return this.#write(held, nextFence);
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

/** What an operation is about. */
function spanAttributes({
  kind,
  teamId,
  resources,
}: Pick<Intent, 'kind' | 'teamId'> & { readonly resources: readonly string[] }): SpanAttributes {
  const [sandbox, ...others] = resources.filter((each) => each.startsWith(ID_PREFIXES.sandbox));
  return {
    'torpor.operation': kind,
    'torpor.team.id': teamId ?? undefined,
    'torpor.sandbox.id': others.length === 0 ? sandbox : undefined,
  };
}
