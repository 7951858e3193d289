import { InvalidArgumentError } from 'commander';
import { expect, test } from 'vitest';
import { assignment, duration, durationWithin, integer, mebibytes } from './arguments.ts';

test.each([
  ['30', 30_000],
  ['500ms', 500],
  ['1.5s', 1500],
  ['5m', 300_000],
  ['2h', 7_200_000],
])('duration %s is %d ms', (text, expected) => {
  expect(duration(text)).toBe(expected);
});

test.each([
  ['512', 512],
  ['512m', 512],
  ['512MiB', 512],
  ['2g', 2048],
  ['1.5G', 1536],
  ['1t', 1_048_576],
])('size %s is %d MiB', (text, expected) => {
  expect(mebibytes(text)).toBe(expected);
});

test.each(['', '-1', '5 minutes', '1e3', 'm', '5w', '9'.repeat(20)])(
  '"%s" is not a duration',
  (text) => {
    expect(() => duration(text)).toThrow(InvalidArgumentError);
  },
);

test.each(['0', '999ms', '61m', 'soon'])('"%s" is not a duration from 1s to 1h', (text) => {
  expect(() => durationWithin('1s', '1h')(text)).toThrow(InvalidArgumentError);
});

test('a duration may equal either of its bounds', () => {
  expect(['1s', '3600'].map(durationWithin('1s', '1h'))).toEqual([1000, 3_600_000]);
});

test.each(['', '-1', '0x10', 'g', '5k', '9'.repeat(20)])('"%s" is not a size', (text) => {
  expect(() => mebibytes(text)).toThrow(InvalidArgumentError);
});

test.each(['', '1.5', '-1', '11', ' 5', '0x5'])('"%s" is not an integer from 1 to 10', (text) => {
  expect(() => integer(1, 10)(text)).toThrow(InvalidArgumentError);
});

test('assignments are collected; the value may contain "="', () => {
  expect(assignment('B=2=3', assignment('A=', undefined))).toEqual({ A: '', B: '2=3' });
  expect(() => assignment('=x', undefined)).toThrow(InvalidArgumentError);
});
