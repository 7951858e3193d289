/*
 * Internals of this package for benchmarks and tests that span packages. Production code may
 * not import it (tests/architecture).
 */
export { type ProbeBootOptions, probeBoot } from './probe-boot.ts';
export { qemuArguments } from './qemu/command-line.ts';
export { completion } from './qemu/migration.ts';
export { QmpClient } from './qemu/qmp-client.ts';
export { runFiles } from './qemu/run-files.ts';
export { VmmProcess } from './vmm-process.ts';
