import { createRequire } from 'node:module';

/** The daemon of this checkout, for agent drives. */
export const ENVD_ENTRY = createRequire(import.meta.url).resolve('@torpor/envd/daemon');
