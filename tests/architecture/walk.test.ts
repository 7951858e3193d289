import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

interface Step {
  /** Of the package, such as `control-plane/src`. */
  readonly source: string;
  /** In it, such as `http/front-door.ts`. */
  readonly file: string;
  /** Such as `SandboxService.create`. */
  readonly name: string;
}

/**
 * The functions of "From POST /v1/sandboxes to the VMM's command line", by package. One that names no
 * file is in that of the step before it.
 */
async function documentedSteps(): Promise<Step[][]> {
  const text = await readFile(join(REPOSITORY, 'docs/architecture.md'), 'utf8');
  const [, section = ''] = /### From POST \/v1\/sandboxes(.*?)\n## /s.exec(text) ?? [];
  let source = '';
  // Each list is a paragraph behind the one that names its package; the last two are of one.
  return section.split('\n\n').flatMap((paragraph) => {
    source = /\(`([a-z-]+\/src)`\)/.exec(paragraph)?.[1] ?? source;
    return paragraph.startsWith('1. ') ? [stepsOf(paragraph, source)] : [];
  });
}

function stepsOf(list: string, source: string): Step[] {
  let file = '';
  return list.split(/^\d+\. /m).flatMap((entry) => {
    file = /^[^(]*?`([a-z0-9/-]+\.ts)`/.exec(entry)?.[1] ?? file;
    const [, name] = /^(?:Its )?`([\w.#]+)`/.exec(entry) ?? [];
    return name === undefined ? [] : [{ source, file, name }];
  });
}

/** Whether a module has a function, or a class with a method, of this name. */
function declares(text: string, name: string): boolean {
  const [first = '', method] = name.split('.');
  if (method === undefined) {
    return new RegExp(`(?:\\b(?:function|class) |^ +(?:async )?)${first}\\b`, 'm').test(text);
  }
  const body = new RegExp(`\\bclass ${first}\\b.*?^}`, 'ms').exec(text)?.[0] ?? '';
  return new RegExp(`^ {2}(?:static )?(?:async )?${method}[<(]`, 'm').test(body);
}

describe('the way of a create, as docs/architecture.md has it', () => {
  test('passes functions that exist, ten or fewer per package', async () => {
    const lists = await documentedSteps();
    expect(lists.map((steps) => steps[0]?.source)).toEqual([
      'control-plane/src',
      'agent/src',
      'vmm/src',
      'vmm/src',
    ]);
    const missing: string[] = [];
    for (const steps of lists) {
      expect(steps.length).toBeGreaterThan(3);
      expect(steps.length).toBeLessThanOrEqual(10);
      for (const { source, file, name } of steps) {
        const text = await readFile(join(REPOSITORY, 'packages', source, file), 'utf8');
        if (!declares(text, name)) missing.push(`${name} in ${source}/${file}`);
      }
    }
    expect(missing).toEqual([]);
  });
});
