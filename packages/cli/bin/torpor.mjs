#!/usr/bin/env node
import { fileURLToPath } from 'node:url';
import { becomeScript } from './brought-node.mjs';

const main = fileURLToPath(new URL('../src/main.ts', import.meta.url));

/** The first Node that strips types without a flag or a warning. */
const SUFFICIENT_NODE_MAJOR = 24;

if (Number.parseInt(process.versions.node, 10) >= SUFFICIENT_NODE_MAJOR) {
  await import(main);
} else {
  becomeScript(main, process.argv.slice(2));
}
