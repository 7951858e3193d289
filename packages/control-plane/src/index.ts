export { ControlPlane, type ControlPlaneOptions } from './control-plane.ts';
export type { ApiFile } from './data-directory/api-file.ts';
