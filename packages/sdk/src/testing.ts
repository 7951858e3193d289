/*
 * Internals of this package for tests that span packages.
 * Production code may not import it (tests/architecture).
 */
export { Connection } from './http/connection.ts';
