import { expect, test } from 'vitest';
import { z } from 'zod';
import { assertParams, pathMatcher, routePattern } from './path-template.ts';

const PROCESS = '/v1/sandboxes/{id}/processes/{selector}/stream';

test('a template in the notation of the router', () => {
  expect(routePattern(PROCESS)).toBe('/v1/sandboxes/:id/processes/:selector/stream');
});

test.each<[string, Record<string, string> | undefined]>([
  ['/v1/sandboxes/sb1/processes/web.1/stream', { id: 'sb1', selector: 'web.1' }],
  ['/v1/sandboxes/sb%2F1/processes/%E4%BD%A0/stream', { id: 'sb/1', selector: '你' }],
  ['/v1/sandboxes/%zz/processes/1/stream', { id: '%zz', selector: '1' }],
  ['/v1/sandboxes//processes/1/stream', undefined],
  ['/v1/sandboxes/a/b/processes/1/stream', undefined],
  ['/v1/sandboxes/a/processes/1/stream/', undefined],
  ['/x/v1/sandboxes/a/processes/1/stream', undefined],
])('the parameters of %s', (path, params) => {
  expect(pathMatcher(PROCESS)(path)).toEqual(params);
});

test('everything but parameters is taken literally', () => {
  const match = pathMatcher('/files/{name}.tar.gz');
  expect(match('/files/a.tar.gz')).toEqual({ name: 'a' });
  expect(match('/files/a-tar-gz')).toBeUndefined();
});

test('a schema for other parameters than those of the template is refused', () => {
  expect(() => assertParams('/a/{id}', z.object({ id: z.string() }))).not.toThrow();
  expect(() => assertParams('/a/{id}', z.object({ name: z.string() }))).toThrow(/\[id\].*\[name\]/);
  expect(() => assertParams('/a/{id}', undefined)).toThrow(/\[id\].*\[\]/);
});
