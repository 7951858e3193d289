import { createRequire } from 'node:module';

/**
 * The daemon in the guest, for the agent drive. Only its path is passed on: it runs in guests, and
 * the packages that make the drive do not depend on what it contains.
 */
export const ENVD_ENTRY = createRequire(import.meta.url).resolve('@torpor/envd/daemon');
