/** Real guests for tests. */
export {
  openDataDirWithBoot,
  type Shape,
  type TestDataDir,
  temporaryDirectory,
} from './kept-boots.ts';
