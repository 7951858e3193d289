/** Real guests for tests. */
export {
  openDataDirWithBoots,
  type Shape,
  type TestDataDir,
  temporaryDirectory,
} from './kept-boots.ts';
