import { readdir, readFile } from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { parseSync } from 'vite';

/**
 * One import, re-export or dynamic import, or the path of a file that another thread, process or
 * bundler loads. Types and paths count, because they tie two files together as well.
 */
export interface Import extends Reference {
  /** The importing file, relative to the repository. */
  readonly from: string;
  /** The imported file, relative to the repository; undefined if it is found by its package's name. */
  readonly to: string | undefined;
}

export interface Reference {
  /** As it is written: `./header.ts`, `@torpor/protocol`, `node:fs`; a relative path starts with a dot. */
  readonly specifier: string;
  /** `path`: the module gets the name of the file, and does not load it itself. */
  readonly kind: 'import' | 'path';
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
      for (const reference of referencesOf(from, text)) {
        const to = reference.specifier.startsWith('.')
          ? relative(repository, resolve(dirname(path), reference.specifier))
          : undefined;
        imports.push({ ...reference, from, to });
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

/** What a module refers to, in every form of the language. Throws for a file that does not parse. */
export function referencesOf(path: string, text: string): Reference[] {
  const { module, program, errors } = parseSync(path, text);
  if (errors.length > 0) throw new Error(`${path}: ${errors[0]?.message}`);
  const reExports = module.staticExports
    .flatMap(({ entries }) => entries)
    .flatMap(({ moduleRequest }) => (moduleRequest === null ? [] : [moduleRequest.value]));
  const imports = module.staticImports.map(({ moduleRequest }) => moduleRequest.value);
  const { loaded, paths } = referencesInExpressions(program, text);
  return [
    ...[...new Set([...imports, ...reExports, ...loaded])].map(
      (specifier) => ({ specifier, kind: 'import' }) as const,
    ),
    ...[...new Set(paths)].map((specifier) => ({ specifier, kind: 'path' }) as const),
  ];
}

interface SyntaxNode {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly [property: string]: unknown;
}

const REQUIRE = /^(?:require|createRequire\(.*\))$/s;
const RESOLVE = /^(?:import\.meta|require|createRequire\(.*\))\.resolve$/s;
const JOIN = /^(?:\w+\.)?(?:join|resolve)$/;

/** What a module refers to anywhere in its code. A computed specifier names no file here. */
function referencesInExpressions(program: unknown, text: string) {
  const loaded: string[] = [];
  const paths: string[] = [];
  const source = (node: SyntaxNode | undefined) =>
    node === undefined ? '' : text.slice(node.start, node.end);
  walk(program, (node) => {
    const [first, second] = nodesIn(node.arguments);
    const callee = isNode(node.callee) ? source(node.callee) : '';
    switch (node.type) {
      case 'ImportExpression':
      case 'TSImportType':
        loaded.push(...literal(source(isNode(node.source) ? node.source : undefined)));
        break;
      case 'NewExpression':
        if (callee === 'URL' && source(second) === 'import.meta.url') {
          paths.push(...literal(source(first)).map(relativePath));
        }
        break;
      case 'CallExpression':
        if (REQUIRE.test(callee)) loaded.push(...literal(source(first)));
        if (RESOLVE.test(callee)) paths.push(...literal(source(first)));
        if (JOIN.test(callee) && source(first) === 'import.meta.dirname') {
          paths.push(...literal(source(second)).map(relativePath));
        }
        break;
      case 'TemplateLiteral': {
        const [, path] = /^`\$\{import\.meta\.dirname\}\/([^$]*)`$/.exec(source(node)) ?? [];
        if (path !== undefined) paths.push(relativePath(path));
      }
    }
  });
  return { loaded, paths };
}

/** Relative to the module, as URLs and paths are without a dot too. */
function relativePath(path: string): string {
  return /^\.{1,2}(?:\/|$)/.test(path) ? path : `./${path}`;
}

function walk(value: unknown, visit: (node: SyntaxNode) => void): void {
  if (Array.isArray(value)) for (const each of value) walk(each, visit);
  if (!isNode(value)) return;
  visit(value);
  for (const child of Object.values(value)) walk(child, visit);
}

function isNode(value: unknown): value is SyntaxNode {
  return typeof value === 'object' && value !== null && 'type' in value && 'start' in value;
}

function nodesIn(value: unknown): SyntaxNode[] {
  return Array.isArray(value) ? value.filter(isNode) : [];
}

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
