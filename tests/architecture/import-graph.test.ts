import { describe, expect, test } from 'vitest';
import { findCircles, type Import, referencesOf } from './import-graph.ts';

describe('the imports of a module', () => {
  test.each([
    ["import { a } from './a.ts';", ['./a.ts']],
    ["import './a.ts';", ['./a.ts']],
    ["import type { A } from './a.ts';", ['./a.ts']],
    ["import { type A } from './a.ts';", ['./a.ts']],
    ["export { a } from './a.ts';", ['./a.ts']],
    ["export type { A } from './a.ts';", ['./a.ts']],
    ["export * from './a.ts';", ['./a.ts']],
    ["const a = await import('./a.ts');", ['./a.ts']],
    ["type A = import('./a.ts').A;", ['./a.ts']],
    ["import { a } from './a.ts'; import { b } from './a.ts';", ['./a.ts']],
    // The file is not known statically.
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the source of a module
    ['const a = await import(`./${name}.ts`);', []],
    ['const text = "import { a } from \'./a.ts\';";', []],
    ["const a = require('./a.cjs');", ['./a.cjs']],
    ["const a = createRequire(import.meta.url)('a');", ['a']],
    ['check(condition).require(id);', []],
  ])('%s', (text, specifiers) => {
    expect(referencesOf('module.ts', text)).toEqual(
      specifiers.map((specifier) => ({ specifier, kind: 'import' })),
    );
  });

  test.each([
    ["const a = new URL('./a.ts', import.meta.url);", ['./a.ts']],
    ["const a = fileURLToPath(new URL('a.ts', import.meta.url)).length;", ['./a.ts']],
    ["const a = createRequire(new URL('../linux/', import.meta.url));", ['../linux/']],
    ["const a = import.meta.resolve('@torpor/a/b');", ['@torpor/a/b']],
    ["const a = require.resolve('a');", ['a']],
    ["const a = createRequire(import.meta.url).resolve('@torpor/a/b');", ['@torpor/a/b']],
    ["const a = join(import.meta.dirname, '../a.ts');", ['../a.ts']],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the source of a module
    ['const a = `${import.meta.dirname}/a.ts`;', ['./a.ts']],
    ["const a = new URL('./a', 'http://127.0.0.1');", []],
    ["const text = `new URL('./a.ts', import.meta.url)`;", []],
  ])('%s is a path', (text, specifiers) => {
    expect(referencesOf('module.ts', text)).toEqual(
      specifiers.map((specifier) => ({ specifier, kind: 'path' })),
    );
  });

  test('a file that does not parse is an error, not a module without imports', () => {
    expect(() => referencesOf('module.ts', 'import {')).toThrow(/module\.ts/);
  });
});

describe('circles', () => {
  /** Each `a/b.ts > c.ts` is an import. */
  function importsOf(...arrows: string[]): Import[] {
    return arrows.map((arrow) => {
      const [from = '', to = ''] = arrow.split(' > ');
      return { from, to, specifier: to, kind: 'import' };
    });
  }

  test.each([
    ['none', ['src/a.ts > src/b.ts', 'src/b.ts > src/c.ts', 'src/a.ts > src/c.ts'], []],
    ['of two files', ['src/a.ts > src/b.ts', 'src/b.ts > src/a.ts'], ['src: a.ts ↔ b.ts']],
    [
      'of three files, with one beside it',
      ['src/d.ts > src/a.ts', 'src/a.ts > src/b.ts', 'src/b.ts > src/c.ts', 'src/c.ts > src/a.ts'],
      ['src: a.ts ↔ b.ts ↔ c.ts'],
    ],
    [
      'of folders, none of whose files is in a circle',
      ['src/x/a.ts > src/y/b.ts', 'src/y/c.ts > src/x/d.ts'],
      ['src: x ↔ y'],
    ],
    [
      'of a folder and a file beside it',
      ['src/x/a.ts > src/b.ts', 'src/b.ts > src/x/c.ts'],
      ['src: b.ts ↔ x'],
    ],
    [
      'two, in separate folders',
      ['p/a.ts > p/b.ts', 'p/b.ts > p/a.ts', 'q/a.ts > q/b.ts', 'q/b.ts > q/a.ts'],
      ['p: a.ts ↔ b.ts', 'q: a.ts ↔ b.ts'],
    ],
    ['none where a file imports one of its own folder', ['src/x/a.ts > src/x/b.ts'], []],
  ])('%s', (_what, arrows, circles) => {
    expect(findCircles(importsOf(...arrows))).toEqual(circles);
  });
});
