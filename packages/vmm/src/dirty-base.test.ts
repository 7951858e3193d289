import { expect, test } from 'vitest';
import {
  BOOTED,
  buildOf,
  captureOf,
  committedAs,
  committedUnrecorded,
  type DirtyBase,
  restoredFrom,
} from './dirty-base.ts';

test.each<[string, DirtyBase, string | undefined, number | undefined]>([
  ['a boot', BOOTED, undefined, 0],
  ['a restore', restoredFrom('b1'), 'b1', 0],
  ['the third capture of a machine', committedAs('b2', { number: 3 }), 'b2', 3],
  ['a crash before the capture was recorded', committedUnrecorded('b3'), 'b3', undefined],
  ['nothing that is known', { kind: 'unknown' }, undefined, undefined],
])('after %s RAM is compared with what is known', (_, base, buildId, number) => {
  expect(buildOf(base)).toBe(buildId);
  expect(captureOf(base)).toBe(number);
});
