export { type Envd, type EnvdOptions, startEnvd } from './server.ts';
export { ENVD_VERSION } from './version.ts';
