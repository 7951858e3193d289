import { expect, test } from 'vitest';
import { OutputCapture } from './output-capture.ts';

test('the first bytes are kept, the others counted', () => {
  const capture = new OutputCapture(5);
  capture.add(Buffer.from('abc'));
  capture.add(Buffer.from('def'));
  capture.add(Buffer.from('ghi'));
  expect(Buffer.from(capture.bytes()).toString()).toBe('abcde');
  expect(capture.droppedBytes).toBe(4n);
});
