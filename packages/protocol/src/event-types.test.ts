import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { EVENT_TYPES, isEventPattern } from './event-types.ts';

test('docs/events.md lists every type with its meaning', async () => {
  const page = await readFile(new URL('../../../docs/events.md', import.meta.url), 'utf8');
  const rows = page.split('\n').map((line) => line.replaceAll(/ +/g, ' '));
  const listed = rows.filter((line) => /^\| `[a-z_]+\.[a-z_]+`/.test(line));
  expect(listed).toEqual(
    Object.entries(EVENT_TYPES).map(([type, meaning]) => `| \`${type}\` | ${meaning} |`),
  );
});

test.each(['sandbox.create', 'sandbox.*', 'user.login', 'team.*'])('%s matches events', (text) => {
  expect(isEventPattern(text)).toBe(true);
});

test.each([
  '',
  '*',
  '.*',
  'sandbox',
  'sandbox.',
  'sandbox.created',
  'sand.*',
  'toString',
  'sandbox.*.*',
])('%j matches none', (text) => {
  expect(isEventPattern(text)).toBe(false);
});
