import fc from 'fast-check';
import { expect, test } from 'vitest';
import { appendedPart } from './appended-part.ts';

test('the part that was appended to a growing log is found', () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), (before, more) => {
      const old = Buffer.from(before);
      const appended = Buffer.from(more);
      expect(appendedPart(old, Buffer.concat([old, appended]))).toEqual(appended);
    }),
  );
});

test('it is also found if the log dropped its beginning', () => {
  const lines = Array.from({ length: 200 }, (_, index) => `line ${index}\n`);
  const old = Buffer.from(lines.slice(0, 150).join(''));
  const current = Buffer.from(lines.slice(50).join(''));
  expect(appendedPart(old, current).toString()).toBe(lines.slice(150).join(''));
});

test('a log that has nothing in common is entirely new', () => {
  const current = Buffer.from('after the reset');
  expect(appendedPart(Buffer.from('before'), current)).toEqual(current);
});
