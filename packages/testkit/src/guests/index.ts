/** Real guests for tests. */
export {
  openDataDirWithBoots,
  type Shape,
  type TestDataDir,
} from './kept-boots.ts';
