import { describe, expect, test } from 'vitest';
import { parseTransfer } from './endpoint.ts';

describe('parseTransfer', () => {
  test('the side with an id and a colon is the sandbox', () => {
    expect(parseTransfer('./a', 'sb1:/tmp/b')).toEqual({
      kind: 'upload',
      from: './a',
      id: 'sb1',
      to: '/tmp/b',
    });
    expect(parseTransfer('sb1:notes.txt', '.')).toEqual({
      kind: 'download',
      id: 'sb1',
      from: 'notes.txt',
      to: '.',
    });
  });

  test('a colon behind a slash belongs to a local path', () => {
    expect(parseTransfer('./a:b', 'sb1:/c')).toMatchObject({ kind: 'upload', from: './a:b' });
    expect(parseTransfer('/a:b', 'sb1:/c:d')).toMatchObject({ from: '/a:b', to: '/c:d' });
  });

  test.each([
    ['a', 'b'],
    ['sb1:/a', 'sb2:/b'],
    ['sb1:', './b'],
    [':/a', './b'],
    ['', 'sb1:/a'],
  ])('"%s" to "%s" is refused', (source, destination) => {
    expect(() => parseTransfer(source, destination)).toThrow(
      expect.objectContaining({ code: 'invalid_request' }),
    );
  });
});
