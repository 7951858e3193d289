/*
 * Internals of this package that `@torpor/testkit` uses.
 * Production code may not import it (tests/architecture).
 */
export { startEmbeddedPostgres } from './database/embedded/embedded-postgres.ts';
export { renderOpenApi } from './openapi/render.ts';
