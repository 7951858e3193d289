import { access, readFile } from 'node:fs/promises';
import { release } from 'node:os';
import { join } from 'node:path';
import { runCommand } from './command.ts';

const MODPROBE_TIMEOUT_MS = 60_000;

export interface KernelModulesOptions {
  /** Where /sys and /lib are; `/` if omitted. */
  readonly root?: string;
  /** As uname(2) reports it; this kernel's if omitted. */
  readonly release?: string;
  /** The program modprobe(8). */
  readonly modprobe?: string;
}

/**
 * The loadable modules of the running kernel. A container often does not see them, and a kernel
 * may have all that is needed built in: then there are none to load, and only using a feature
 * shows whether it is available.
 */
export class KernelModules {
  readonly #root: string;
  readonly #directory: string;
  readonly #modprobe: string;

  constructor(options: KernelModulesOptions = {}) {
    this.#root = options.root ?? '/';
    this.#directory = join(this.#root, 'lib/modules', options.release ?? release());
    this.#modprobe = options.modprobe ?? 'modprobe';
  }

  /**
   * Those of the modules that this kernel has as files and has not loaded, in their order.
   * Built-in modules are not among them, nor names that the kernel does not have.
   */
  async unloaded(names: readonly string[]): Promise<string[]> {
    const [files, builtIn] = await Promise.all([
      // modules.dep(5): `kernel/drivers/net/veth.ko.xz: what it depends on`.
      this.#namesIn('modules.dep'),
      this.#namesIn('modules.builtin'),
    ]);
    const candidates = names.filter((name) => files.has(name) && !builtIn.has(name));
    const loaded = await Promise.all(candidates.map((name) => this.#isLoaded(name)));
    return candidates.filter((_, index) => loaded[index] === false);
  }

  /** Loads a module and what it depends on. Throws CommandError. */
  async load(name: string): Promise<void> {
    await runCommand(this.#modprobe, ['--', name], { timeoutMs: MODPROBE_TIMEOUT_MS });
  }

  /** The names in sysfs, which have underscores even if the file's name has dashes. */
  async #namesIn(list: string): Promise<Set<string>> {
    const text = await readFile(join(this.#directory, list), 'utf8').catch(() => '');
    const names = text.matchAll(/^(?:[^:\n]*\/)?([^/:\n]+)\.ko(?:\.\w+)?(?::.*)?$/gm);
    return new Set(Array.from(names, ([, name = '']) => name.replaceAll('-', '_')));
  }

  #isLoaded(name: string): Promise<boolean> {
    return access(join(this.#root, 'sys/module', name)).then(
      () => true,
      () => false,
    );
  }
}
