import { readdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { type ModuleNames, namesOf, unusedExports } from './exports.ts';
import { sources } from './import-graph.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const FOLDERS = ['packages', 'tests', 'bench', 'scripts', 'examples'];

/** Exports that are used without an import. */
const ENTRIES: ReadonlySet<string> = new Set([
  // The host agent bundles this module, and runs it in guests.
  'packages/agent/src/file-tree/program.ts main',
]);

test('every value that a module exports is imported somewhere', async () => {
  const entries = await packageEntries();
  const modules: ModuleNames[] = [];
  for (const folder of FOLDERS) {
    for (const path of await sources(join(REPOSITORY, folder))) {
      modules.push(namesOf(relative(REPOSITORY, path), await readFile(path, 'utf8'), entries));
    }
  }
  const unused = unusedExports(modules)
    .filter(({ isType }) => !isType)
    .map(({ file, name }) => `${file} ${name}`);
  expect(unused.filter((each) => !ENTRIES.has(each))).toEqual([]);
  expect([...ENTRIES].filter((each) => !unused.includes(each))).toEqual([]);
});

/** The files of the packages' entries: `@torpor/agent/testing` → `packages/agent/src/testing.ts`. */
async function packageEntries(): Promise<Map<string, string>> {
  const entries = new Map<string, string>();
  for (const name of await readdir(join(REPOSITORY, 'packages'))) {
    const path = join('packages', name);
    const text = await readFile(join(REPOSITORY, path, 'package.json'), 'utf8');
    const { exports } = JSON.parse(text) as { exports: Record<string, string> };
    for (const [entry, file] of Object.entries(exports)) {
      entries.set(`@torpor/${name}${entry.slice(1)}`, join(path, file));
    }
  }
  return entries;
}

describe('an export', () => {
  const entries = new Map([['@torpor/p', 'p/index.ts']]);

  /** The unused exports of modules that are given by path and text. */
  function unusedIn(modules: Record<string, string>): string[] {
    const names = Object.entries(modules).map(([file, text]) => namesOf(file, text, entries));
    return unusedExports(names).map(({ file, name }) => `${file} ${name}`);
  }

  const A = 'export const one = 1; export function two() {} export class Three {}';

  test.each([
    ["import { one, two as second } from './a.ts';", ['Three']],
    ["import * as a from './a.ts'; import { one } from './a.ts';", []],
    ["export { one } from './a.ts'; import { one } from './b.ts';", ['two', 'Three']],
    ["import * as all from './a.ts';", []],
    ["const { one } = await import('./a.ts');", []],
    ["type T = import('./a.ts').Three;", []],
    ["import type { Three } from './a.ts';", ['one', 'two']],
    ["import './a.ts';", ['one', 'two', 'Three']],
    ["import { one } from './other.ts';", ['one', 'two', 'Three']],
    ["// import { one } from './a.ts'", ['one', 'two', 'Three']],
  ])('is unused unless a module names it: %s', (text, unused) => {
    expect(unusedIn({ 'p/a.ts': A, 'p/b.ts': text })).toEqual(
      unused.map((name) => `p/a.ts ${name}`),
    );
  });

  test('of a package is unused if only the package itself re-exports it', () => {
    const modules = { 'p/a.ts': A, 'p/index.ts': "export { one, two, Three } from './a.ts';" };
    expect(unusedIn({ ...modules, 'q/b.ts': "import { one, two } from '@torpor/p';" })).toEqual([
      'p/index.ts Three',
    ]);
  });

  test('as default is a name like another', () => {
    const modules = { 'p/a.ts': 'export default 1;' };
    expect(unusedIn(modules)).toEqual(['p/a.ts default']);
    expect(unusedIn({ ...modules, 'p/b.ts': "import a from './a.ts';" })).toEqual([]);
  });

  test('of a type says so', () => {
    const { exported } = namesOf('p/a.ts', 'export interface A {} export const b = 1;', entries);
    expect(exported.map(({ name, isType }) => [name, isType])).toEqual([
      ['A', true],
      ['b', false],
    ]);
  });
});
