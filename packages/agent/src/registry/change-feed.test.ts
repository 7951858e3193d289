import { expect, test } from 'vitest';
import { ChangeFeed, type FeedEvent } from './change-feed.ts';

async function take<T>(
  events: AsyncGenerator<FeedEvent<T>>,
  count: number,
): Promise<FeedEvent<T>[]> {
  const taken: FeedEvent<T>[] = [];
  while (taken.length < count) {
    const next = await events.next();
    if (next.done) break;
    taken.push(next.value);
  }
  return taken;
}

test('the snapshot comes first, then every change in order', async () => {
  const feed = new ChangeFeed<number>();
  const stop = new AbortController();
  const events = feed.watch(() => [1, 2], 60_000, stop.signal);
  expect(await take(events, 3)).toEqual([
    { kind: 'item', item: 1 },
    { kind: 'item', item: 2 },
    { kind: 'synchronised' },
  ]);
  feed.publish(3);
  feed.publish(4);
  const rest = take(events, 3);
  feed.publish(5);
  expect((await rest).map((event) => event.kind === 'item' && event.item)).toEqual([3, 4, 5]);
  stop.abort();
  expect(await events.next()).toMatchObject({ done: true });
});

test('changes while the snapshot is being sent are sent after it', async () => {
  const feed = new ChangeFeed<number>();
  const stop = new AbortController();
  const events = feed.watch(() => [1], 60_000, stop.signal);
  expect(await take(events, 1)).toHaveLength(1);
  feed.publish(9);
  expect(await take(events, 2)).toEqual([{ kind: 'synchronised' }, { kind: 'item', item: 9 }]);
  await events.return(undefined);
});

test('a silent feed sends keepalives, and an abort stops the wait', async () => {
  const feed = new ChangeFeed<number>();
  const stop = new AbortController();
  const events = feed.watch(() => [], 1, stop.signal);
  expect(await take(events, 3)).toEqual([
    { kind: 'synchronised' },
    { kind: 'keepalive' },
    { kind: 'keepalive' },
  ]);
  const waiting = feed.watch(() => [], 60_000, stop.signal);
  await take(waiting, 1);
  const next = waiting.next();
  stop.abort();
  expect(await next).toMatchObject({ done: true });
});

test('a consumer that falls behind gets an error and must start again', async () => {
  const feed = new ChangeFeed<number>();
  const events = feed.watch(() => [], 60_000, new AbortController().signal);
  await take(events, 1);
  for (let item = 0; item <= 10_000; item++) feed.publish(item);
  await expect(take(events, 10_001)).rejects.toMatchObject({ code: 'conflict' });
});
