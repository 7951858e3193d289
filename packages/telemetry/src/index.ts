export type { Tracing, TracingOptions, TracingSettings } from './options.ts';
export { startTracing } from './tracing.ts';
