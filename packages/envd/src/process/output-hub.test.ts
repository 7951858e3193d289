import { describe, expect, it } from 'vitest';
import { exitByStatus } from './exit-status.ts';
import { OutputHub, type OutputSubscription } from './output-hub.ts';

const KIB = 1024;
const block = (size: number) => ({ kind: 'stdout', bytes: Buffer.alloc(size, 'x') }) as const;

function hub(): { hub: OutputHub; paused: () => boolean } {
  let paused = false;
  return {
    hub: new OutputHub((value) => {
      paused = value;
    }),
    paused: () => paused,
  };
}

async function takeBytes(subscription: OutputSubscription, count: number): Promise<void> {
  let taken = 0;
  while (taken < count) {
    const event = await subscription.next(1000);
    if (typeof event === 'string' || event.type !== 'data')
      throw new Error(`got ${JSON.stringify(event)}`);
    taken += event.chunk.bytes.length;
  }
}

describe('OutputHub', () => {
  it('never pauses a process without a follower', () => {
    const { hub: output, paused } = hub();
    for (let index = 0; index < 100; index += 1) output.push(block(64 * KIB));
    expect(paused()).toBe(false);
  });

  it('pauses while a follower lags, and continues when it has caught up', async () => {
    const { hub: output, paused } = hub();
    using slow = output.subscribe();
    using fast = output.subscribe();
    for (let index = 0; index < 5; index += 1) {
      output.push(block(64 * KIB));
      await takeBytes(fast, 64 * KIB);
    }
    expect(paused()).toBe(true);
    await takeBytes(slow, 3 * 64 * KIB);
    expect(paused()).toBe(true);
    await takeBytes(slow, 2 * 64 * KIB);
    expect(paused()).toBe(false);
  });

  it('joins queued chunks of one kind to events of less than 256 KiB, in order', async () => {
    const { hub: output } = hub();
    using follower = output.subscribe();
    const pushed = ['stdout', 'stdout', 'stderr', 'stdout'] as const;
    for (const [index, kind] of pushed.entries()) {
      output.push({ kind, bytes: Buffer.from(String(index)) });
    }
    for (let index = 0; index < 5; index += 1) output.push(block(64 * KIB));
    output.finish(exitByStatus(0));
    const events: unknown[] = [];
    for (;;) {
      const event = await follower.next(1000);
      if (typeof event === 'string' || event.type === 'end') break;
      const { kind, bytes } = event.chunk;
      events.push([kind, bytes.length > 9 ? bytes.length : Buffer.from(bytes).toString()]);
    }
    expect(events).toEqual([
      ['stdout', '01'],
      ['stderr', '2'],
      ['stdout', 1 + 3 * 64 * KIB],
      ['stdout', 2 * 64 * KIB],
    ]);
  });

  it('counts tiny pieces of output by more than their bytes', () => {
    const { hub: output, paused } = hub();
    using slow = output.subscribe();
    for (let index = 0; index < 2000; index += 1) output.push(block(1));
    expect(paused()).toBe(true);
    expect(slow.closed).toBe(false);
  });

  it('continues when the lagging follower disconnects', () => {
    const { hub: output, paused } = hub();
    const slow = output.subscribe();
    for (let index = 0; index < 5; index += 1) output.push(block(64 * KIB));
    expect(paused()).toBe(true);
    slow.close();
    expect(paused()).toBe(false);
  });

  it('puts the end after the last output, also for later followers', async () => {
    const { hub: output } = hub();
    using early = output.subscribe();
    output.push(block(3));
    output.finish(exitByStatus(0));
    output.push(block(3));
    using late = output.subscribe();
    for (const follower of [early, late]) {
      expect(await follower.next(1000)).toMatchObject({ type: 'data' });
      expect(await follower.next(1000)).toMatchObject({ type: 'end', end: { exitCode: 0 } });
    }
  });

  it('wakes a follower that waits when it is closed', async () => {
    const { hub: output } = hub();
    const follower = output.subscribe();
    const waiting = follower.next(60_000);
    follower.close();
    expect(await waiting).toBe('closed');
  });

  it('reports silence', async () => {
    const { hub: output } = hub();
    using follower = output.subscribe();
    expect(await follower.next(5)).toBe('idle');
  });
});
