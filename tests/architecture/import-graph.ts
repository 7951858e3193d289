import { readdir, readFile } from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { parseSync } from 'vite';

/** One import, re-export or dynamic import; types count, because they tie two files together as well. */
export interface Import {
  /** The importing file, relative to the repository. */
  readonly from: string;
  /** As it is written: `./header.ts`, `@torpor/protocol`, `node:fs`. */
  readonly specifier: string;
  /** The imported file, relative to the repository; undefined if it is found by its package's name. */
  readonly to: string | undefined;
}

const SOURCE = /\.(?:ts|mts|mjs|js)$/;
const IGNORED_FOLDERS = new Set(['node_modules', 'gen']);

/** All imports of the sources under `folders`, which are relative to `repository`. */
export async function readImports(
  repository: string,
  folders: readonly string[],
): Promise<readonly Import[]> {
  const imports: Import[] = [];
  for (const folder of folders) {
    for (const path of await sources(join(repository, folder))) {
      const text = await readFile(path, 'utf8');
      const from = relative(repository, path);
      for (const specifier of specifiersOf(from, text)) {
        const to = specifier.startsWith('.')
          ? relative(repository, resolve(dirname(path), specifier))
          : undefined;
        imports.push({ from, specifier, to });
      }
    }
  }
  return imports;
}

/** The paths of the sources under a folder, without generated ones. */
export async function sources(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  const found = await Promise.all(
    entries.map(async (entry) => {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) return IGNORED_FOLDERS.has(entry.name) ? [] : await sources(path);
      return SOURCE.test(entry.name) ? [path] : [];
    }),
  );
  return found.flat().sort();
}

/** The specifiers of a module's imports, in every form of the language. Throws for a file that does not parse. */
export function specifiersOf(path: string, text: string): string[] {
  const { module, errors } = parseSync(path, text);
  if (errors.length > 0) throw new Error(`${path}: ${errors[0]?.message}`);
  const reExports = module.staticExports
    .flatMap(({ entries }) => entries)
    .flatMap(({ moduleRequest }) => (moduleRequest === null ? [] : [moduleRequest.value]));
  const dynamic = module.dynamicImports.flatMap(({ moduleRequest: { start, end } }) =>
    literal(text.slice(start, end)),
  );
  // The parser does not list `import('./a.ts').A` in a type.
  const inTypes = [...text.matchAll(/\bimport\('([^']+)'\)/g)].map(([, value = '']) => value);
  const all = module.staticImports.map(({ moduleRequest }) => moduleRequest.value);
  return [...new Set([...all, ...reExports, ...dynamic, ...inTypes])];
}

/** A computed specifier names no file here. */
function literal(text: string): string[] {
  return /^(['"`])[^$]*\1$/.test(text) ? [text.slice(1, -1)] : [];
}

/**
 * The circles in which the entries of one folder, files and folders alike, import each
 * other: `folder: a ↔ b`. A folder imports what any file in it imports. This
 * finds both kinds of circles: one between files shows in the folder that contains them all.
 */
export function findCircles(imports: readonly Import[]): string[] {
  const byFolder = new Map<string, Map<string, Set<string>>>();
  for (const { from, to } of imports) {
    if (to === undefined || from === to) continue;
    const a = from.split(sep);
    const b = to.split(sep);
    let depth = 0;
    while (a[depth] === b[depth]) depth++;
    const folder = a.slice(0, depth).join(sep);
    const edges = byFolder.get(folder) ?? new Map<string, Set<string>>();
    byFolder.set(folder, edges);
    const targets = edges.get(a[depth] ?? '') ?? new Set<string>();
    edges.set(a[depth] ?? '', targets.add(b[depth] ?? ''));
  }
  return [...byFolder].flatMap(([folder, edges]) =>
    stronglyConnected(edges).map((names) => `${folder}: ${names.sort().join(' ↔ ')}`),
  );
}

/** Tarjan's algorithm; only components of more than one node. */
function stronglyConnected(edges: ReadonlyMap<string, ReadonlySet<string>>): string[][] {
  const index = new Map<string, number>();
  const low = new Map<string, number>();
  const stack: string[] = [];
  const components: string[][] = [];
  const visit = (node: string): void => {
    index.set(node, index.size);
    low.set(node, index.get(node) ?? 0);
    stack.push(node);
    for (const next of edges.get(node) ?? []) {
      if (!index.has(next)) visit(next);
      else if (!stack.includes(next)) continue;
      low.set(node, Math.min(low.get(node) ?? 0, low.get(next) ?? 0));
    }
    if (low.get(node) !== index.get(node)) return;
    const component = stack.splice(stack.lastIndexOf(node));
    if (component.length > 1) components.push(component);
  };
  for (const node of edges.keys()) if (!index.has(node)) visit(node);
  return components;
}
