import { dirname, join } from 'node:path';
import { parseSync } from 'vite';

/** One name that a module exports or takes from another module; `*` stands for all of its names. */
interface Name {
  /** The module's file, relative to the repository. */
  readonly file: string;
  readonly name: string;
  readonly isType: boolean;
}

export interface ModuleNames {
  readonly exported: readonly Name[];
  /** What it imports or re-exports from other files of the repository. */
  readonly used: readonly Name[];
}

/**
 * The names that a module exports and uses. `entries` has the files of packages by specifier,
 * such as `@torpor/agent/testing`. Throws for a file that does not parse.
 */
export function namesOf(
  file: string,
  text: string,
  entries: ReadonlyMap<string, string>,
): ModuleNames {
  const { module, errors } = parseSync(file, text);
  if (errors.length > 0) throw new Error(`${file}: ${errors[0]?.message}`);
  const exported: Name[] = [];
  const used: Name[] = [];
  const use = (specifier: string, name: string, isType: boolean): void => {
    const target = specifier.startsWith('.')
      ? join(dirname(file), specifier)
      : entries.get(specifier);
    if (target !== undefined) used.push({ file: target, name, isType });
  };
  for (const { exportName, importName, moduleRequest, isType } of module.staticExports.flatMap(
    ({ entries }) => entries,
  )) {
    const name = exportName.kind === 'Default' ? 'default' : exportName.name;
    if (name !== null) exported.push({ file, name, isType });
    if (moduleRequest !== null) use(moduleRequest.value, importName.name ?? '*', isType);
  }
  for (const { moduleRequest, entries: names } of module.staticImports) {
    for (const { importName, isType } of names) {
      const whole = importName.kind === 'Default' ? 'default' : '*';
      use(moduleRequest.value, importName.name ?? whole, isType);
    }
  }
  // What a dynamic import, or `import('./a.ts').A` in a type, takes is not followed.
  for (const [, specifier = ''] of text.matchAll(/\bimport\(\s*['"`]([^'"`$]+)['"`]/g)) {
    use(specifier, '*', false);
  }
  return { exported, used };
}

/** The exports that none of these modules uses. */
export function unusedExports(modules: readonly ModuleNames[]): Name[] {
  const used = new Set(modules.flatMap((each) => each.used).map(keyOf));
  return modules
    .flatMap((each) => each.exported)
    .filter((each) => !used.has(keyOf(each)) && !used.has(keyOf({ ...each, name: '*' })));
}

function keyOf({ file, name }: Name): string {
  return `${file} ${name}`;
}
