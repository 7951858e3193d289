import { accessSync, constants, mkdirSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * The directory of Node's compile cache: in the checkout, or, if the user cannot write there, in
 * the user's home. Not in /tmp, nor in `$HOME` or `$XDG_CACHE_HOME`: with sudo these may be
 * another user's, and root would run that user's code.
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
