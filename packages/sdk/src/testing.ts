/*
 * What tests that span packages need of the inside of this package.
 * Production code may not import it (tests/architecture).
 */
export { Connection } from './http/connection.ts';
