import { accessSync, constants, mkdirSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * Where Node keeps compiled code: in the checkout, or, for a user who may not write there, in
 * that user's home. Not in /tmp, and not where `$HOME` or `$XDG_CACHE_HOME` say: with sudo those
 * may name another user's files, whose code root would run.
 *
 * @returns {string | undefined} undefined for a user without a home
 */
export function compileCacheDirectory() {
  const inCheckout = fileURLToPath(new URL('../../../node_modules/.cache/torpor', import.meta.url));
  return isWritable(inCheckout) ? inCheckout : cacheInHome();
}

function cacheInHome() {
  try {
    return join(userInfo().homedir, '.cache/torpor/compiled');
  } catch {
    return undefined;
  }
}

/** @param {string} directory */
function isWritable(directory) {
  try {
    mkdirSync(directory, { recursive: true });
    accessSync(directory, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
