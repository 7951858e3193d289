import { fileURLToPath } from 'node:url';

/** The module to bundle and run on the other side. A path, because nothing imports it. */
export const FILE_TREE_PROGRAM = fileURLToPath(new URL('program.ts', import.meta.url));
