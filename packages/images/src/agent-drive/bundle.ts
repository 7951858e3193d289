import { createHash } from 'node:crypto';
import { cp, mkdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { build } from 'esbuild';
import { z } from 'zod';

/** Packages with compiled parts, which cannot be bundled, and the files that they need at run time. */
const NATIVE_PACKAGES = [
  { name: 'koffi', files: ['package.json', 'index.js', 'index.cjs', 'src/koffi'] },
  {
    name: '@koromix/koffi-linux-x64',
    files: ['package.json', 'index.js', 'linux_x64/koffi.node'],
  },
] as const;

/** Only what Node loads: koffi ships its C++ sources too. */
const RUNTIME_FILE_PATTERN = /\.(?:c?js|json|node)$|\/[^.]+$/;

const packageSchema = z.object({ name: z.string(), version: z.string() });

export interface EnvdBundle {
  readonly code: Uint8Array;
  readonly sha256: string;
}

/**
 * envd and all its JavaScript dependencies as one script, whose value is a function
 * `(exports, require, module)`. CommonJS, because Node loads much more of itself
 * for an ECMAScript module; a plain script, because V8 can keep its bytecode.
 */
export async function bundleEnvd(entry: string): Promise<EnvdBundle> {
  const code = await bundleScript(entry);
  return { code, sha256: createHash('sha256').update(code).digest('hex') };
}

/** Bundles any program for the Node of the agent drive, whose compiled packages it may load. */
export async function bundleScript(entry: string): Promise<Uint8Array> {
  const result = await build({
    entryPoints: [entry],
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node26',
    charset: 'ascii',
    // Dynamic imports are in the bundle or a compiled package, so require() works for them.
    supported: { 'dynamic-import': false },
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: 'none',
    external: NATIVE_PACKAGES.map(({ name }) => name),
    banner: { js: '(function(exports,require,module){' },
    footer: { js: '})' },
    write: false,
    logLevel: 'silent',
  });
  return result.outputFiles[0]?.contents ?? new Uint8Array();
}

/** Versions of the packages with compiled parts, by name. */
export async function nativePackageVersions(): Promise<Record<string, string>> {
  const versions: Record<string, string> = {};
  for (const { name } of NATIVE_PACKAGES) {
    versions[name] = (await readPackage(await packageDirectory(name))).version;
  }
  return versions;
}

/** Paths of the compiled parts as npm installed them. */
export async function nativeModules(): Promise<string[]> {
  const modules: string[] = [];
  for (const { name, files } of NATIVE_PACKAGES) {
    const directory = await packageDirectory(name);
    for (const file of files) if (file.endsWith('.node')) modules.push(join(directory, file));
  }
  return modules;
}

/** Copies the packages with compiled parts below `target/node_modules`. */
export async function copyNativePackages(target: string): Promise<void> {
  for (const { name, files } of NATIVE_PACKAGES) {
    const source = await packageDirectory(name);
    const destination = join(target, 'node_modules', name);
    for (const file of files) {
      await mkdir(dirname(join(destination, file)), { recursive: true });
      await cp(join(source, file), join(destination, file), {
        recursive: true,
        filter: (path) => RUNTIME_FILE_PATTERN.test(path),
      });
    }
  }
}

/**
 * The directory in which npm installed a package. A package need not export its own manifest,
 * so the directories are searched.
 */
export async function packageDirectory(name: string): Promise<string> {
  const require = createRequire(import.meta.url);
  for (const modules of require.resolve.paths(name) ?? []) {
    const directory = join(modules, name);
    const found = await readPackage(directory).catch(() => undefined);
    if (found?.name === name) return directory;
  }
  throw new Error(`the npm package ${name} is not installed`);
}

export async function readPackage(directory: string): Promise<z.infer<typeof packageSchema>> {
  return packageSchema.parse(JSON.parse(await readFile(join(directory, 'package.json'), 'utf8')));
}
