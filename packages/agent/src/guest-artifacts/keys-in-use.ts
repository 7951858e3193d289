import { readdir, readFile, stat } from 'node:fs/promises';
import { listCacheUsers } from '@torpor/images';
import { recordTexts } from '../data-dir/record-texts.ts';

/** An artefact of the cache is in a directory that is named after its key. */
const KEY = /(?<![0-9a-f])[0-9a-f]{24}(?![0-9a-f])/g;

/**
 * Keys of all artefacts of a cache that are in use: those that the server of a data
 * directory started with, those that one of its sandboxes or builds names in its record
 * or manifest, and those in the arguments of a running program (a VMM whose data
 * directory is not known). Looks at the given data directory and at all that have used
 * the cache. Reads text, not formats: what another version of Torpor wrote, or a fault
 * has damaged, still keeps what it names. Throws if something cannot be read.
 */
export async function keysInUse(cacheDir: string, dataDir: string): Promise<Set<string>> {
  const keys = new Set<string>();
  const dataDirs = new Set([dataDir]);
  for (const user of await listCacheUsers(cacheDir)) {
    if ((await stat(user.dataDir).catch(ignoreMissing)) === undefined) continue;
    dataDirs.add(user.dataDir);
    for (const key of user.keys) keys.add(key);
  }
  const addKeysIn = (text: string) => {
    for (const key of text.match(KEY) ?? []) keys.add(key);
  };
  const programs = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  for (const pid of programs) {
    addKeysIn((await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(ignoreMissing)) ?? '');
  }
  for (const root of dataDirs) {
    for await (const text of recordTexts(root)) addKeysIn(text);
  }
  return keys;
}

/** Undefined for what is not there, or not any more: a process may end meanwhile. */
function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (['ENOENT', 'ENOTDIR', 'ESRCH'].includes(error.code ?? '')) return undefined;
  throw error;
}
