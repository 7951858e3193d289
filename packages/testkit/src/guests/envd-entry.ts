import { createRequire } from 'node:module';

/** The daemon of this checkout, for agent drives. */
export const ENVD_ENTRY = createRequire(import.meta.url).resolve('@torpor/envd/daemon');

/** What every agent with real guests needs. */
export const GUEST_OPTIONS = { envdEntry: ENVD_ENTRY, guestTimeoutMs: 120_000 } as const;
