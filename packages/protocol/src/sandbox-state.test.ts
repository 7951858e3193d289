import { expect, test } from 'vitest';
import {
  assertTransition,
  canTransition,
  isTransitional,
  SANDBOX_STATES,
} from './sandbox-state.ts';

test('an operation is in progress in the transitional states, and in no other', () => {
  expect(SANDBOX_STATES.filter(isTransitional)).toEqual([
    'creating',
    'pausing',
    'resuming',
    'snapshotting',
    'destroying',
  ]);
});

test('every state except stopped has a transition, and a stopped sandbox has none', () => {
  for (const from of SANDBOX_STATES) {
    const next = SANDBOX_STATES.filter((to) => canTransition(from, to));
    expect(next.length > 0, from).toBe(from !== 'stopped');
    expect(next, from).not.toContain(from);
  }
});

test('a transition that is not in the table is refused, with the states in the message', () => {
  expect(() => assertTransition('sb1', 'paused', 'running')).toThrow(
    'Sandbox sb1 is paused; it cannot become running.',
  );
});
