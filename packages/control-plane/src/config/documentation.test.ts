import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { loadConfig } from './config.ts';

test('docs/configuration.md describes every setting as it is', async () => {
  const page = new URL('../../../../docs/configuration.md', import.meta.url);
  const text = await readFile(page, 'utf8');
  const { entries } = await loadConfig({ env: {}, configFile: '/dev/null' });
  const rows = entries.map(({ name, variable, flag, meaning, value, unset }) => {
    const option = flag === undefined ? '–' : `\`${flag}\``;
    const otherwise = unset ?? `\`${value}\``;
    return `| \`${name}\` | \`${variable}\` | ${option} | ${meaning} | ${otherwise} |`;
  });
  const lines = text.split('\n').map((line) => line.replaceAll(/ +/g, ' '));
  expect(lines.filter((line) => line.startsWith('| `'))).toEqual(rows);
});
