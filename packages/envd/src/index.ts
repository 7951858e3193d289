export type { EnvdOptions } from './options.ts';
export { type Envd, startEnvd } from './server.ts';
export { ENVD_VERSION } from './version.ts';
