/*
 * Internals of this package for the project's own scripts and for tests that span
 * packages: what its commands print, and how they stop.
 * Production code may not import it (tests/architecture).
 */
export { line, processIo } from './io.ts';
export { optionName } from './output/option-names.ts';
export { printStatus, progressStatus } from './output/progress.ts';
export { setupReport } from './output/setup-report.ts';
export { StopRequest } from './platform/stop-request.ts';
