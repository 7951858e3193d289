/** Real guests for tests. */
export { ENVD_ENTRY, GUEST_OPTIONS } from './envd-entry.ts';
export {
  openDataDirWithBoots,
  type Shape,
  type TestDataDir,
} from './kept-boots.ts';
