import { describe, expect, test } from 'vitest';
import { execRequestSchema } from './exec.ts';

function problem(request: object): string | undefined {
  const { error } = execRequestSchema.safeParse({ cmd: 'true', ...request });
  return error?.issues[0]?.message;
}

describe('arguments are limited as in execve(2)', () => {
  test.each<[string, string[]]>([
    ['many short ones', Array.from({ length: 150_000 }, (_, index) => String(index % 10))],
    ['the longest one', ['x'.repeat(131_071)]],
    ['the longest one that is not ASCII', ['é'.repeat(65_535)]],
    ['fifteen of the longest', Array.from({ length: 15 }, () => 'x'.repeat(131_071))],
  ])('%s: accepted', (_what, args) => {
    expect(problem({ args })).toBeUndefined();
  });

  test.each<[string, string[], RegExp]>([
    ['one too long', ['x'.repeat(131_072)], /131071 bytes .* one argument/],
    ['one too long in UTF-8', ['é'.repeat(65_536)], /131071 bytes .* one argument/],
    ['too many', Array.from({ length: 300_000 }, () => 'x'), /2097152 bytes .* standard input/],
    ['a NUL byte', ['a\0b'], /NUL/],
  ])('%s: refused', (_what, args, message) => {
    expect(problem({ args })).toMatch(message);
  });
});

test.each([
  'root',
  'user',
  '0',
  '1000',
  '_apt',
  'www-data',
  'Debian-exim',
  'first.last',
  '4242:4343',
  'user:docker',
])('the user %j is accepted', (user) => {
  expect(problem({ user })).toBeUndefined();
});

test.each(['', '-1', 'a b', '12345678901', '../root', ':docker', 'user:', 'a:b:c', '0:-1'])(
  'the user %j is refused',
  (user) => {
    expect(problem({ user })).toBe('must be a user, or user:group, by name or number');
  },
);

test.each(['4294967295', '0:4294967295', '9999999999'])('the id %j is refused', (user) => {
  expect(problem({ user })).toBe('must have numbers up to 4294967294');
});
