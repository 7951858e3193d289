/*
 * What `@torpor/testkit` needs of the inside of this package.
 * Production code may not import it (tests/architecture).
 */
export { startEmbeddedPostgres } from './database/embedded/embedded-postgres.ts';
