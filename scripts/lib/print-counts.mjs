// `node print-counts.mjs RESULT FAILURES`: the last line of `.ci/run`. FAILURES is
// how many of its steps failed, the tests being one of them.
import { readFileSync } from 'node:fs';

const [path, failures] = process.argv.slice(2);
const text = readFileSync(path, 'utf8');
const counts = text === '' ? { passed: 0, failed: 0, skipped: 0 } : JSON.parse(text);

const testsFailed = counts.failed > 0 || counts.passed === 0;
// Tests that could not be started count as one failure, and so does each other step.
const otherSteps = Math.max(0, Number(failures) - (testsFailed ? 1 : 0));
const failed = (testsFailed ? Math.max(1, counts.failed) : 0) + otherSteps;

const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : '';
process.stdout.write(`${counts.passed} passed, ${failed} failed${skipped}\n`);
process.exit(failed === 0 ? 0 : 1);
