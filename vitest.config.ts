import { defineConfig } from 'vitest/config';

/**
 * Two projects: `unit` runs without virtual machines, `vm` boots real guests
 * and therefore runs one file at a time with generous limits.
 */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['packages/*/src/**/*.test.ts', '{tests,scripts,bench}/**/*.test.ts'],
          exclude: ['**/*.vm.test.ts', '**/node_modules/**'],
          testTimeout: 60_000,
          hookTimeout: 120_000,
        },
      },
      {
        test: {
          name: 'vm',
          include: ['packages/*/src/**/*.vm.test.ts', '{tests,bench}/**/*.vm.test.ts'],
          fileParallelism: false,
          testTimeout: 300_000,
          hookTimeout: 600_000,
        },
      },
    ],
  },
});
