import { readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { findCircles, type Import, readImports } from './import-graph.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const SCOPE = '@torpor/';
/** No production code may import it, and it may import every package. */
const TESTKIT = 'testkit';

interface Package {
  readonly name: string;
  readonly entries: readonly string[];
  readonly dependencies: ReadonlySet<string>;
}

let packages: readonly Package[];
let imports: readonly Import[];
beforeAll(async () => {
  const names = await readdir(join(REPOSITORY, 'packages'));
  packages = await Promise.all(names.map(readPackage));
  imports = await readImports(REPOSITORY, ['packages', 'tests', 'bench', 'scripts', 'examples']);
});

async function readPackage(name: string): Promise<Package> {
  const path = join(REPOSITORY, 'packages', name, 'package.json');
  const json = JSON.parse(await readFile(path, 'utf8')) as {
    exports: Record<string, string>;
    dependencies?: Record<string, string>;
  };
  return {
    name,
    entries: Object.keys(json.exports).map((entry) => `${SCOPE}${name}${entry.slice(1)}`),
    dependencies: workspaceNames(json.dependencies),
  };
}

function workspaceNames(dependencies: Record<string, string> = {}): Set<string> {
  const names = Object.keys(dependencies).filter((name) => name.startsWith(SCOPE));
  return new Set(names.map((name) => name.slice(SCOPE.length)));
}

/** The package that a file or its folder belongs to; undefined for one of `tests`, `bench`, … */
function packageOf(file: string): string | undefined {
  return /^packages\/([^/]+)(?:\/|$)/.exec(file)?.[1];
}

/** What may only be entered as a package: one, or a folder such as `tests` or `bench`. */
function areaOf(file: string): string | undefined {
  return packageOf(file) ?? /^(?:bench|scripts|tests)(?=\/|$)/.exec(file)?.[0];
}

/**
 * The program that runs in guests. The command line passes its path to the host agent, which has it
 * packed into the agent drive; no package loads it.
 */
const GUEST_PROGRAM = `${SCOPE}envd/daemon`;

/** The package that a specifier names: `agent` for `@torpor/agent/testing`. */
function packageNamedBy(specifier: string): string | undefined {
  return specifier.startsWith(SCOPE) ? specifier.slice(SCOPE.length).split('/')[0] : undefined;
}

function isTest(file: string): boolean {
  return file.endsWith('.test.ts');
}

/** Code that no user runs: tests, everything outside of the packages, and the testkit. */
function isTestCode(file: string): boolean {
  return packageOf(file) === undefined || packageOf(file) === TESTKIT || isTest(file);
}

function describeImport({ from, specifier }: Import): string {
  return `${from} imports ${specifier}`;
}

describe('inside a package', () => {
  // A test drives the public surface of what contains it: `index.ts`, a daemon, the control plane.
  test('no files and no folders import each other in a circle', () => {
    const own = imports.filter(
      ({ from, to = '' }) =>
        packageOf(from) !== undefined && !(isTest(from) && from.startsWith(`${dirname(to)}/`)),
    );
    expect(findCircles(own)).toEqual([]);
  });
});

describe.each(['agent', 'control-plane'])('inside %s', (name) => {
  test('a folder imports only those below it in the table in docs/architecture.md', async () => {
    const rows = await documentedFolders(name);
    const rowOf = (file: string) => rows.get(file.split('/')[3] ?? '');
    const upward = imports.filter(({ from, to }) => {
      if (packageOf(from) !== name || isTest(from)) return false;
      const [importing, imported] = [rowOf(from), rowOf(to ?? '')];
      return importing !== undefined && imported !== undefined && imported < importing;
    });
    expect(upward.map(describeImport)).toEqual([]);
  });

  test('the table lists every folder, and no other', async () => {
    const rows = await documentedFolders(name);
    const entries = await readdir(join(REPOSITORY, 'packages', name, 'src'), {
      withFileTypes: true,
    });
    const folders = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
    const documented = [...rows.keys()].filter((row) => !row.endsWith('.ts'));
    expect(documented.sort()).toEqual(folders.sort());
  });
});

describe('between packages', () => {
  test('the table in docs/architecture.md lists the existing arrows, and no other', async () => {
    const documented = await documentedArrows();
    const declared = packages
      .filter(({ name }) => name !== TESTKIT)
      .map(
        ({ name, dependencies }) =>
          [name, [...dependencies].filter((each) => !isOnlyNamed(name, each)).sort()] as const,
      );
    expect(Object.fromEntries(declared)).toEqual(documented);
  });

  test('every arrow is used', () => {
    const unused = packages.flatMap(({ name, dependencies }) =>
      [...dependencies]
        .filter((dependency) => !arrowsFrom(name).has(dependency))
        .map((dependency) => `${name} does not need ${dependency}`),
    );
    expect(unused).toEqual([]);
  });

  test('production code imports only packages that package.json declares', () => {
    const undeclared = imports.filter(({ from, specifier }) => {
      const target = packageNamedBy(specifier);
      if (isTestCode(from) || target === undefined) return false;
      return !packages.find(({ name }) => name === packageOf(from))?.dependencies.has(target);
    });
    expect(undeclared.map(describeImport)).toEqual([]);
  });

  test('only the command line names the program of guests, and nothing loads it', () => {
    const named = imports.filter(
      (each) => each.specifier === GUEST_PROGRAM && packageOf(each.from) !== TESTKIT,
    );
    expect(named.map(({ from, kind }) => `${from}: ${kind}`)).toEqual([
      'packages/cli/src/platform/envd-entry.ts: path',
    ]);
  });

  test('only tests import the testkit, and what packages export for it', () => {
    const misused = imports.filter(
      ({ from, specifier }) =>
        !isTestCode(from) &&
        (packageNamedBy(specifier) === TESTKIT || /^@torpor\/[^/]+\/testing$/.test(specifier)),
    );
    expect(misused.map(describeImport)).toEqual([]);
  });

  test('a package is entered only where its package.json says', () => {
    const entries = new Set(packages.flatMap((each) => each.entries));
    const deep = imports.filter(({ from, specifier, to }) => {
      // These tests read sources as text.
      if (from.startsWith('tests/architecture/')) return false;
      if (to === undefined)
        return packageNamedBy(specifier) !== undefined && !entries.has(specifier);
      // What starts the command line is imported before there are packages to be named.
      const isForeign = areaOf(to) !== undefined && areaOf(to) !== areaOf(from);
      return isForeign && !to.startsWith('packages/cli/bin/');
    });
    expect(deep.map(describeImport)).toEqual([]);
  });
});

/** Whether a package refers to another only by the path of the program of guests. */
function isOnlyNamed(name: string, dependency: string): boolean {
  const own = imports.filter(
    ({ from, specifier }) =>
      packageOf(from) === name && !isTest(from) && packageNamedBy(specifier) === dependency,
  );
  return own.length > 0 && own.every(({ specifier }) => specifier === GUEST_PROGRAM);
}

function arrowsFrom(name: string): Set<string | undefined> {
  const own = imports.filter(({ from }) => packageOf(from) === name && !isTest(from));
  return new Set(own.map(({ specifier }) => packageNamedBy(specifier)));
}

/** The rows of the table whose second column lists the packages that a package may import. */
async function documentedArrows(): Promise<Record<string, string[]>> {
  const text = await readFile(join(REPOSITORY, 'docs/architecture.md'), 'utf8');
  const table = /\| package +\| purpose.*\n(?:\|.*\n)+/.exec(text)?.[0] ?? '';
  const rows = [...table.matchAll(/^\| `([a-z-]+)` +\|[^|]*\|([^|]*)\|$/gm)];
  const names = new Set(packages.map(({ name }) => name));
  return Object.fromEntries(
    rows.map(([, name = '', cell = '']) => [
      name,
      [...new Set(cell.match(/[a-z-]+/g))].filter((word) => names.has(word)).sort(),
    ]),
  );
}

/** The folders and files that the table of a package's `src` lists, with the numbers of their rows. */
async function documentedFolders(name: string): Promise<Map<string, number>> {
  const text = await readFile(join(REPOSITORY, 'docs/architecture.md'), 'utf8');
  const table = new RegExp(`\\| folder of \`${name}/src\`.*\\n(?:\\|.*\\n)+`).exec(text)?.[0] ?? '';
  const cells = table.split('\n').map((row) => row.split('|')[1] ?? '');
  return new Map(
    cells.flatMap((cell, row) =>
      [...cell.matchAll(/`([a-z-]+)(?:\/|(\.ts))`/g)].map(([, folder, ext = '']) => [
        `${folder}${ext}`,
        row,
      ]),
    ),
  );
}
