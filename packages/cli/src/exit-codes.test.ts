import { expect, test } from 'vitest';
import { exitCodeOfProgram } from './exit-codes.ts';

test.each([
  [{ exitCode: 0 }, 0],
  [{ exitCode: 7 }, 7],
  [{ exitCode: 255 }, 255],
  [{ exitCode: -1, error: 'signal: killed' }, 137],
  [{ exitCode: -1, error: 'signal: segmentation fault (core dumped)' }, 139],
  [{ exitCode: 0, error: 'signal: terminated' }, 143],
  [{ exitCode: -1, error: 'signal: SIGTERM' }, 143],
  [{ exitCode: 137, error: 'signal: killed' }, 137],
  [{ exitCode: -1 }, 1],
  [{ exitCode: 256 }, 1],
])('a program that exited with %o makes us exit with %d', (exit, expected) => {
  expect(exitCodeOfProgram(exit)).toBe(expected);
});
