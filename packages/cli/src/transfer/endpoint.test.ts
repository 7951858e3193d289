import { describe, expect, test } from 'vitest';
import { parseEndpoint, parseTransfer } from './endpoint.ts';

describe('parseEndpoint', () => {
  test.each([
    ['sb1:/tmp/b', { kind: 'sandbox', id: 'sb1', path: '/tmp/b' }],
    ['sb1:notes.txt', { kind: 'sandbox', id: 'sb1', path: 'notes.txt' }],
    ['sb1:/c:d', { kind: 'sandbox', id: 'sb1', path: '/c:d' }],
    ['sb1:', { kind: 'sandbox', id: 'sb1', path: '.' }],
    ['./a', { kind: 'local', path: './a' }],
    ['./a:b', { kind: 'local', path: './a:b' }],
    ['/a:b', { kind: 'local', path: '/a:b' }],
    ['./-', { kind: 'local', path: './-' }],
  ])('reads %s', (text, endpoint) => {
    expect(parseEndpoint(text)).toEqual(endpoint);
  });
});

describe('parseTransfer', () => {
  test('both sides may be sandboxes', () => {
    expect(parseTransfer('sb1:/a', 'sb2:')).toMatchObject({
      from: { id: 'sb1' },
      to: { id: 'sb2' },
    });
  });

  test.each([
    ['a', 'b'],
    ['sb1:/a', '-'],
    ['-', 'sb1:/a'],
    [':/a', './b'],
    ['', 'sb1:/a'],
  ])('"%s" to "%s" is refused', (source, destination) => {
    expect(() => parseTransfer(source, destination)).toThrow(
      expect.objectContaining({ code: 'invalid_request' }),
    );
  });
});
