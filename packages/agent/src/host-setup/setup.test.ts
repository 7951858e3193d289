import { describe, expect, test } from 'vitest';
import type { CheckResult, Requirement } from './requirement.ts';
import { REQUIREMENTS } from './requirements.ts';
import { assertHostReady, setUpHost } from './setup.ts';

function requirement(id: string, result: CheckResult, packages: string[] = []): Requirement {
  return {
    id,
    purpose: 'a test',
    check: () => Promise.resolve(result),
    packages,
    remedy: `Mend ${id}.`,
  };
}

const found = { state: 'found', detail: '/bin/found' } as const;
const missing = { state: 'missing', detail: 'not there' } as const;

function recorder() {
  const steps: string[] = [];
  return { steps, report: { step: (line: string) => steps.push(line), output: () => undefined } };
}

describe('setUpHost', () => {
  test('does and prints nothing if nothing is missing', async () => {
    const { steps, report } = recorder();
    const checked = await setUpHost({ report, requirements: [requirement('a', found)] });
    expect(checked).toHaveLength(1);
    expect(steps).toEqual([]);
  });

  test('names the requirement that no package provides, and its remedy', async () => {
    const { steps, report } = recorder();
    const requirements = [requirement('a', found), requirement('b', missing)];
    await expect(setUpHost({ report, requirements })).rejects.toMatchObject({
      code: 'host_setup',
      message: expect.stringContaining('b (not there)'),
      remedy: expect.stringContaining('Mend b.'),
    });
    expect(steps).toEqual(['b (for a test) is missing: not there']);
  });

  test('a degraded requirement without packages is not an error', async () => {
    const { report } = recorder();
    const requirements = [requirement('a', { state: 'degraded', detail: 'old' })];
    await expect(setUpHost({ report, requirements })).resolves.toHaveLength(1);
  });
});

describe('assertHostReady', () => {
  test('names the missing requirements and the packages that provide them', async () => {
    const requirements = [requirement('a', missing, ['a-package'])];
    await expect(assertHostReady(requirements)).rejects.toMatchObject({
      code: 'host_setup',
      remedy: expect.stringContaining('a-package'),
    });
  });
});

describe('the table', () => {
  test('has unique ids, and a purpose and remedy for each', () => {
    expect(new Set(REQUIREMENTS.map(({ id }) => id)).size).toBe(REQUIREMENTS.length);
    for (const { purpose, remedy } of REQUIREMENTS) {
      expect(purpose).not.toBe('');
      expect(remedy).toMatch(/\.$/);
    }
  });
});
