import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { assertTransition, type SandboxState } from '@torpor/protocol';
import type { HostContext } from '../host-context.ts';
import { ChangeFeed, type FeedEvent } from './change-feed.ts';
import { type SandboxRecord, writeRecord } from './record.ts';
import type { Sandbox } from './sandbox.ts';

/** Fields of a record to be changed; `undefined` removes one. */
export type RecordChanges = {
  readonly [Field in keyof SandboxRecord]?: SandboxRecord[Field] | undefined;
};

/**
 * Changes records of sandboxes: checked against the table of transitions, written to disk
 * first, then published to watchers. The caller holds the sandbox's lock.
 */
export class SandboxRecords {
  readonly #host: Pick<HostContext, 'layout' | 'logger'>;
  readonly #changes = new ChangeFeed<SandboxRecord>();

  constructor(host: Pick<HostContext, 'layout' | 'logger'>) {
    this.#host = host;
  }

  /** What `list` returns, then every change; see {@link ChangeFeed.watch}. */
  watch(
    list: () => readonly SandboxRecord[],
    keepAliveMs: number,
    signal: AbortSignal,
  ): AsyncGenerator<FeedEvent<SandboxRecord>> {
    return this.#changes.watch(list, keepAliveMs, signal);
  }

  /** Resolves when the sandbox has changed its state, or after `timeoutMs`. */
  async left(sandbox: Sandbox, state: SandboxState, timeoutMs: number): Promise<void> {
    const events = this.watch(() => [], timeoutMs, AbortSignal.timeout(timeoutMs));
    for await (const { kind } of events) {
      if (kind === 'keepalive' || sandbox.record.state !== state) return;
    }
  }

  /** Throws `invalid_state` for a transition that is not allowed, and the errors of writing. */
  async transition(sandbox: Sandbox, to: SandboxState, changes: RecordChanges = {}): Promise<void> {
    assertTransition(sandbox.id, sandbox.record.state, to);
    await this.#keep(sandbox, changed(sandbox, { ...changes, state: to }));
  }

  /** Changes a record without a change of state. */
  async change(sandbox: Sandbox, changes: RecordChanges): Promise<void> {
    await this.#keep(sandbox, changed(sandbox, changes));
  }

  /** Publishes a state of a sandbox that no longer has a record. */
  announce(sandbox: Sandbox, state: 'stopped' | 'error', reason?: string): void {
    const { record } = sandbox;
    this.#changes.publish({ ...record, state, ...(reason === undefined ? {} : { reason }) });
  }

  /** So that the next agent knows when a sandbox was used last, and its fence. */
  async save(sandbox: Sandbox): Promise<void> {
    try {
      await writeRecord(this.#host.layout.recordFile(sandbox.id), currentRecord(sandbox));
    } catch (error) {
      this.#host.logger.warn({ sandbox: sandbox.id, err: error }, 'Record not written');
    }
  }

  async #keep(sandbox: Sandbox, record: SandboxRecord): Promise<void> {
    const path = this.#host.layout.recordFile(sandbox.id);
    try {
      await mkdir(dirname(path), { recursive: true, mode: 0o700 });
      await writeRecord(path, record);
    } catch (error) {
      if (!maySurviveUnwritten(sandbox.record.state, record.state)) throw error;
      this.#host.logger.error({ sandbox: sandbox.id, err: error }, 'Record not written');
    }
    sandbox.record = record;
    this.#changes.publish(record);
  }
}

/** The record, with the current time of the last use and fence. */
export function currentRecord(sandbox: Sandbox): SandboxRecord {
  const { record, activity, fence } = sandbox;
  const current = { ...record, lastActiveAt: activity.lastActiveAt };
  return fence === undefined ? current : { ...current, fence };
}

/**
 * Whether a change of state is kept although the disk is full. A VMM that has exited must still
 * be reported, and destroying a sandbox frees space. After an operation that failed, or whose
 * build is published, the next agent derives the same state from the old record.
 */
function maySurviveUnwritten(from: SandboxState, to: SandboxState): boolean {
  if (to === 'error' || to === 'destroying') return true;
  if (to === 'running') return from === 'pausing' || from === 'snapshotting';
  return to === 'paused' && (from === 'pausing' || from === 'resuming');
}

function changed(sandbox: Sandbox, changes: RecordChanges): SandboxRecord {
  const fields = Object.entries({ ...currentRecord(sandbox), ...changes });
  return Object.fromEntries(fields.filter(([, value]) => value !== undefined)) as SandboxRecord;
}
