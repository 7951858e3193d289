import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

const GIB = 2 ** 30;
/** More than the guests of one test file hold at a time, with their VMMs and builds in the making. */
const VM_FILE_BYTES = 4 * GIB;
/** An emulated guest keeps a processor busy, so that more files than those only wait for each other. */
const VM_WORKERS = Math.max(
  1,
  Math.min(availableParallelism(), Math.floor(process.availableMemory() / VM_FILE_BYTES)),
);

/** The default, one second, is less than a command of the CLI takes on a busy machine. */
const EXPECT = { poll: { timeout: 15_000 } };

const folders = '{packages/*/src,tests,bench,scripts}';

/**
 * Three projects. What a test needs is the last part of its file's name: nothing
 * (`x.test.ts`), a host that is set up, with root, namespaces and PostgreSQL
 * (`x.host.test.ts`), or real virtual machines (`x.vm.test.ts`). See docs/testing.md.
 */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: [`${folders}/**/*.test.ts`],
          exclude: ['**/*.{host,vm}.test.ts', '**/node_modules/**'],
          testTimeout: 60_000,
          hookTimeout: 120_000,
          expect: EXPECT,
          maxWorkers: availableParallelism(),
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: 'host',
          include: [`${folders}/**/*.host.test.ts`],
          testTimeout: 60_000,
          hookTimeout: 120_000,
          expect: EXPECT,
          // Some of these wait for a process or a deadline most of their time.
          maxWorkers: availableParallelism() + 1,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: 'vm',
          include: [`${folders}/**/*.vm.test.ts`],
          testTimeout: 300_000,
          hookTimeout: 600_000,
          expect: EXPECT,
          maxWorkers: VM_WORKERS,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
