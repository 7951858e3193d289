import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Semaphore } from './semaphore.ts';

/** An action that logs when it starts, and finishes when it is released. */
function held(log: string[], name: string) {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const action = async () => {
    log.push(name);
    await promise;
    return name;
  };
  return { action, end: resolve, fail: reject };
}

test('as many actions run as there are permits, and the others follow in their order', async () => {
  const semaphore = new Semaphore(2);
  const log: string[] = [];
  const actions = ['a', 'b', 'c', 'd'].map((name) => held(log, name));
  const results = actions.map(({ action }) => semaphore.run(action));
  await turn();
  expect(log).toEqual(['a', 'b']);
  actions[1]?.end();
  await turn();
  expect(log).toEqual(['a', 'b', 'c']);
  for (const { end } of actions) end();
  expect(await Promise.all(results)).toEqual(['a', 'b', 'c', 'd']);
});

test('an urgent action runs before those that wait, and after urgent ones before it', async () => {
  const semaphore = new Semaphore(1);
  const log: string[] = [];
  const first = held(log, 'first');
  const running = [semaphore.run(first.action)];
  const record = (name: string) => async () => void log.push(name);
  const rest = [
    semaphore.run(record('later')),
    semaphore.run(record('urgent'), { urgent: true }),
    semaphore.run(record('urgent too'), { urgent: true }),
  ];
  first.end();
  await Promise.all([...running, ...rest]);
  expect(log).toEqual(['first', 'urgent', 'urgent too', 'later']);
});

test('an action that fails returns its permit, also one that fails before it awaits anything', async () => {
  const semaphore = new Semaphore(1);
  const log: string[] = [];
  const failing = held(log, 'failing');
  const failed = semaphore.run(failing.action);
  const throwing = semaphore.run(() => {
    throw new Error('at once');
  });
  const next = semaphore.run(async () => 'next');
  failing.fail(new Error('in the end'));
  await expect(failed).rejects.toThrow('in the end');
  await expect(throwing).rejects.toThrow('at once');
  expect(await next).toBe('next');
});

test.each([0, -1, 1.5, Number.NaN])('%s permits are refused', (permits) => {
  expect(() => new Semaphore(permits)).toThrow(RangeError);
});

test('no more actions run at a time than there are permits, and all run eventually', async () => {
  const job = fc.record({
    turns: fc.integer({ min: 1, max: 4 }),
    urgent: fc.boolean(),
    fails: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 4 }), fc.array(job), async (permits, jobs) => {
      const semaphore = new Semaphore(permits);
      let running = 0;
      let most = 0;
      const run = async ({ turns, fails }: { turns: number; fails: boolean }) => {
        most = Math.max(most, ++running);
        for (let at = 0; at < turns; at++) await turn();
        running--;
        if (fails) throw new Error('it fails');
      };
      const results = jobs.map((each) => semaphore.run(() => run(each), { urgent: each.urgent }));
      const settled = await Promise.allSettled(results);
      expect(settled.filter(({ status }) => status === 'rejected')).toHaveLength(
        jobs.filter(({ fails }) => fails).length,
      );
      expect(most).toBeLessThanOrEqual(permits);
      expect(most).toBe(Math.min(permits, jobs.length));
    }),
    { numRuns: 50 },
  );
});
