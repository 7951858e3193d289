/*
 * What the project's own scripts and the tests that span packages need of the inside of
 * this package: set-up of a machine as `torpor setup` does it, and its output.
 * Production code may not import it (tests/architecture).
 */
export { requirementsFor, setUpHost, setupReport } from './host-setup/index.ts';
export { REQUIREMENTS } from './host-setup/requirements.ts';
export { line, processIo } from './io.ts';
export { optionName } from './output/option-names.ts';
export { printStatus } from './output/progress.ts';
export { openImageStore } from './platform/images.ts';
export { terminateWithNpm } from './platform/npm-parent.ts';
export { BASE_IMAGE, prepareGuest } from './platform/prepare-guest.ts';
export { StopRequest } from './platform/stop-request.ts';
