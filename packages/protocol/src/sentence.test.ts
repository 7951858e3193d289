import { expect, test } from 'vitest';
import { withFullStop } from './sentence.ts';

test.each([
  ['it failed', 'it failed.'],
  ['it failed.', 'it failed.'],
  ['it failed!', 'it failed!'],
  ['did it fail?\n', 'did it fail?'],
  ['it failed\n', 'it failed.'],
])('%j becomes %j', (message, expected) => {
  expect(withFullStop(message)).toBe(expected);
});
