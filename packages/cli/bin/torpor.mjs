#!/usr/bin/env node
// Plain JavaScript for Node >= 20. `bin/torpor` runs it with the project's own Node.
import * as module from 'node:module';
import { fileURLToPath } from 'node:url';
import { execScript } from './bundled-node.mjs';
import { compileCacheDirectory } from './compile-cache.mjs';

/** The first Node that strips types without a flag or a warning. */
const SUFFICIENT_NODE_MAJOR = 24;

if (Number.parseInt(process.versions.node, 10) >= SUFFICIENT_NODE_MAJOR) {
  // Before the first TypeScript is loaded: cached code needs no type stripper, whose start takes
  // longer than all of our own code.
  const directory = compileCacheDirectory();
  if (directory !== undefined) module.enableCompileCache(directory);
  await import('../src/main.ts');
} else {
  execScript(fileURLToPath(import.meta.url), process.argv.slice(2));
}
