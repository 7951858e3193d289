export { forwardingObstacles } from './network/index.ts';
