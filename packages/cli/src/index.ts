export { runCli } from './cli.ts';
export { EXIT } from './exit-codes.ts';
export { type Io, processIo } from './io.ts';
export { terminateWithNpm } from './platform/npm-parent.ts';
