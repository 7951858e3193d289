import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { ERRORS } from '../errors.ts';
import { CATALOGUE_FILE, renderCatalogue } from './render.ts';

test('docs/errors.md is what `npm run docs` writes', async () => {
  expect(await readFile(CATALOGUE_FILE, 'utf8')).toBe(renderCatalogue());
});

test('every answer with status 503 or 429 says when to try again', () => {
  const temporary = Object.entries(ERRORS).filter(([, { http }]) => [429, 503].includes(http));
  expect(temporary).not.toHaveLength(0);
  for (const [code, entry] of temporary) {
    expect(code in ERRORS && 'retryAfterSec' in entry, code).toBe(true);
  }
});
