'use strict';

const { existsSync, readFileSync } = require('node:fs');
const { createRequire } = require('node:module');
const { setFlagsFromString } = require('node:v8');
const { Script } = require('node:vm');

/*
 * Loads the bundle of envd, in the guest and when its bytecode is recorded: V8 accepts bytecode
 * only with exactly the flags with which it was made.
 */

/**
 * V8's compilers to machine code. Code that runs once, or in emulation, is faster to interpret
 * than to compile.
 */
const COMPILERS = ['opt', 'maglev', 'sparkplug'];

function switchCompilers(prefix) {
  for (const name of COMPILERS) setFlagsFromString(`--${prefix}${name}`);
}

/**
 * Runs the bundle in a directory, with its bytecode if it exists. Returns its exports, its
 * script, and a function that enables the compilers once it has started.
 */
function loadBundle(directory) {
  switchCompilers('no-');
  const filename = `${directory}/envd.cjs`;
  const cache = `${directory}/envd.cache`;
  // The bundle is ASCII: as Latin-1 its text needs no decoding.
  const script = new Script(readFileSync(filename, 'latin1'), {
    filename,
    ...(existsSync(cache) ? { cachedData: readFileSync(cache) } : {}),
  });
  const bundle = { exports: {} };
  script.runInThisContext()(bundle.exports, createRequire(filename), bundle);
  return { envd: bundle.exports, script, started: () => switchCompilers('') };
}

module.exports = { loadBundle };
