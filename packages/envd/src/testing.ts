/*
 * Internals of this package that `@torpor/testkit` uses.
 * Production code may not import it (tests/architecture).
 */
export { EnvdContext } from './context.ts';
export { handleFiles } from './files/index.ts';
export { UserDatabase } from './users.ts';
