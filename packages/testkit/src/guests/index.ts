/** Real guests for tests. */
export { ENVD_ENTRY } from './envd-entry.ts';
export {
  openDataDirWithBoots,
  type Shape,
  type TestDataDir,
} from './kept-boots.ts';
