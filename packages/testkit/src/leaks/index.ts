/** Whether tests leave resources of the machine behind. */
export { readHost, settledLeaks } from './leak-check.ts';
