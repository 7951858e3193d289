import { expect, test } from 'vitest';
import { readableLine } from './logger.ts';

test('a log entry is one line for people: time, level, message, cause, other fields', () => {
  const entry = JSON.stringify({
    level: 40,
    time: Date.UTC(2030, 0, 1, 12, 34, 56),
    pid: 1,
    hostname: 'h',
    part: 'agent',
    sandbox: 'sb1',
    err: { message: 'it broke' },
    msg: 'Not removed',
  });
  expect(readableLine(entry)).toBe('12:34:56 warn  Not removed: it broke (sandbox=sb1)');
});
