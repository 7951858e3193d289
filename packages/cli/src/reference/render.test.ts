import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { REFERENCE_FILE, renderReference } from './render.ts';

test('docs/cli.md is what `npm run docs` writes', async () => {
  expect(await readFile(REFERENCE_FILE, 'utf8')).toBe(await renderReference());
});
