import { constants } from 'node:os';
import { expect, test } from 'vitest';
import { SIGNAL_NAMES, signalNumber, signalOfStatus, signalStatus } from './signals.ts';

test('every name that Linux knows has its number, with and without SIG', () => {
  const known = Object.entries(constants.signals);
  expect(known.length).toBeGreaterThanOrEqual(SIGNAL_NAMES.length);
  for (const [name, number] of known) {
    expect([name, signalNumber(name)]).toEqual([name, number]);
    expect(signalNumber(name.slice(3).toLowerCase())).toBe(number);
  }
});

test.each([
  ['1', 1],
  ['9', 9],
  ['64', 64],
  ['RTMIN', 34],
  ['SIGRTMIN+3', 37],
  ['rtmax-1', 63],
  ['RTMAX', 64],
])('%s is %i', (text, number) => {
  expect(signalNumber(text)).toBe(number);
});

test.each([
  ['0'],
  ['65'],
  ['-9'],
  [''],
  ['SIG'],
  ['SIGNOPE'],
  ['RTMIN+31'],
  ['RTMAX-31'],
  ['1.5'],
  ['toString'],
])('"%s" is not a signal', (text) => {
  expect(signalNumber(text)).toBeUndefined();
});

test('signalOfStatus reverses signalStatus', () => {
  expect(signalStatus('SIGKILL')).toBe('signal: killed');
  for (const name of SIGNAL_NAMES) {
    expect(signalOfStatus(signalStatus(name))).toBe(signalNumber(name));
    expect(signalOfStatus(`signal: ${name}`)).toBe(signalNumber(name));
  }
  expect(signalOfStatus('signal: segmentation fault (core dumped)')).toBe(11);
  expect(signalOfStatus('signal: killed: out of memory')).toBe(9);
  expect(signalOfStatus('exit status 1')).toBeUndefined();
});
