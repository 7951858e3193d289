export { ControlPlane, type ControlPlaneOptions } from './control-plane.ts';
export { type ApiFile, apiFileSchema } from './data-directory/api-file.ts';
