import { parseElf } from '../elf/elf.ts';

/** A kernel module, unpacked. */
export interface KernelModule {
  /** Its own name: with `_`, never `-`. */
  readonly name: string;
  /** Names of the modules that must be loaded before it. */
  readonly dependencies: readonly string[];
}

/**
 * Reads a module's `.modinfo` section. depmod makes modules.dep from it; Debian's packages do
 * not ship that file.
 */
export function readModuleInfo(module: Buffer): KernelModule {
  const section = parseElf(module).section('.modinfo');
  if (section === undefined) throw new Error('the kernel module has no .modinfo section');
  const fields = section.toString('latin1').split('\0');
  const field = (key: string) =>
    fields.find((line) => line.startsWith(`${key}=`))?.slice(key.length + 1);
  const name = field('name');
  if (name === undefined) throw new Error('the kernel module does not have a name');
  const dependencies = (field('depends') ?? '').split(',').filter((entry) => entry !== '');
  return { name, dependencies: dependencies.map(moduleName) };
}

/** The one spelling of a module's name: `virtio-rng` and `virtio_rng` are the same module. */
export function moduleName(name: string): string {
  return name.replaceAll('-', '_');
}

/**
 * The modules in an order in which insmod can load them: every module after its dependencies,
 * otherwise in the order of `wanted`. `dependenciesOf` returns undefined for a module that the
 * kernel has built in, which is left out. Throws for a cycle.
 */
export function orderModules(
  wanted: readonly string[],
  dependenciesOf: (name: string) => readonly string[] | undefined,
): string[] {
  const order: string[] = [];
  const visit = (name: string, path: readonly string[]): void => {
    if (order.includes(name)) return;
    if (path.includes(name)) {
      throw new Error(`kernel modules depend on each other: ${[...path, name].join(' → ')}`);
    }
    const dependencies = dependenciesOf(name);
    if (dependencies === undefined) return;
    for (const dependency of dependencies) visit(dependency, [...path, name]);
    order.push(name);
  };
  for (const name of wanted) visit(moduleName(name), []);
  return order;
}
