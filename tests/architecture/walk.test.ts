import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

/** Called by Node's HTTP server and by the composition of the control plane. */
const ROOTS = ['FrontDoor.open', 'createApp'];

interface Function {
  /** Such as `control-plane/src/http/front-door.ts`. */
  readonly file: string;
  /** Such as `SandboxService.create`. */
  readonly name: string;
}

/** One entry of a list: alternatives, such as a boot and a restore. */
type Step = readonly Function[];

/**
 * The functions of "From POST /v1/sandboxes to the VMM's command line", by list. One that names no
 * file is in that of the function before it.
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
  const steps = list.split(/^\d+\. /m).map((entry) => {
    const [named = ''] =
      /^`[\w.#]+`(?: in `[\w/.-]+`)?(?:, or `[\w.#]+`(?: in `[\w/.-]+`)?)?/.exec(entry) ?? [];
    return [...named.matchAll(/`([\w.#]+)`(?: in `([\w/.-]+)`)?/g)].map(([, name = '', path]) => {
      file = path ?? file;
      return { file: `${source}/${file}`, name };
    });
  });
  return steps.filter((step) => step.length > 0);
}

/** The text of a function, or of a class's method; undefined if the module does not declare it. */
function sourceOf(text: string, name: string): string | undefined {
  const [first = '', method] = name.split('.');
  if (method === undefined) {
    return (
      declaration(text, `(?:export )?(?:async )?function ${first}\\b`) ??
      declaration(text, `async ${first}\\b`)
    );
  }
  const body = declaration(text, `export class ${first}\\b`) ?? '';
  return declaration(body, `(?:static )?(?:async )?${method}[<(]`);
}

/** From its first line to the closing brace that is indented as that is. */
function declaration(text: string, head: string): string | undefined {
  return new RegExp(`^( *)${head}.*?^\\1}`, 'ms').exec(text)?.[0];
}

/** Whether a function's text calls one of this name: `createFrom(`, `.#launch(`, `this.call(`. */
function calls(text: string, name: string): boolean {
  const [first = '', method] = name.split('.');
  const callee = method === undefined ? `(?<!function |async )\\b${first}` : `\\.${method}`;
  return new RegExp(`${callee}\\(`).test(text.slice(text.indexOf('{')));
}

async function readFunction({ file, name }: Function): Promise<string | undefined> {
  return sourceOf(await readFile(join(REPOSITORY, 'packages', file), 'utf8'), name);
}

describe('the way of a create, as docs/architecture.md has it', () => {
  test('passes ten or fewer functions per package', async () => {
    const lists = await documentedSteps();
    expect(lists.map(([step]) => step?.[0]?.file.replace(/\/src\/.*/, ''))).toEqual([
      'control-plane',
      'agent',
      'vmm',
      'vmm',
    ]);
    for (const steps of lists) {
      expect(steps.length).toBeGreaterThan(3);
      expect(steps.length).toBeLessThanOrEqual(10);
    }
  });

  test('passes functions that exist, each called by one before it', async () => {
    const wrong: string[] = [];
    let earlier = '';
    for (const step of (await documentedSteps()).flat()) {
      const texts = await Promise.all(step.map(readFunction));
      for (const [index, { file, name }] of step.entries()) {
        if (texts[index] === undefined) wrong.push(`${file} has no ${name}`);
        if (!ROOTS.includes(name) && !calls(earlier, name)) wrong.push(`nothing calls ${name}`);
      }
      earlier += texts.join('\n');
    }
    expect(wrong).toEqual([]);
  });
});
