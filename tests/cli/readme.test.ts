import { readdir, readFile } from 'node:fs/promises';
import { cli } from '@torpor/testkit/cli';
import { describe, expect, test } from 'vitest';
import { readmeBlocks } from '../support/readme.ts';

const EXAMPLES = new URL('../../examples/', import.meta.url);

/* The type check covers the examples; the end-to-end test runs them. */
test('the TypeScript of the README is that of the examples', async () => {
  const inReadme = (await readmeBlocks()).filter(({ language }) => language === 'ts');
  const names = await readdir(EXAMPLES);
  const examples = await Promise.all(
    names.map((name) => readFile(new URL(name, EXAMPLES), 'utf8')),
  );
  expect(inReadme.map(({ code }) => code).toSorted()).toEqual(examples.toSorted());
});

describe('the help that the README promises', async () => {
  const { stdout } = await cli(['--help']);
  const commands = [...stdout.matchAll(/^ {2}([a-z]+)(?:\|\w+)? /gm)].map(([, name = '']) => name);

  test('the README has commands', () => {
    expect(commands).toContain('create');
  });

  test.each(commands.filter((name) => name !== 'help'))('%s --help', async (name) => {
    const help = await cli([name, '--help']);
    expect(help).toMatchObject({ exitCode: 0, stderr: '' });
    expect(help.stdout).toContain(`Usage: torpor ${name}`);
  });

  test('the README names no command that does not exist', async () => {
    const shell = (await readmeBlocks()).filter(({ language }) => language === 'sh');
    const used = shell.flatMap(({ code }) => [...code.matchAll(/npx torpor ([a-z]+)/g)]);
    expect(used.length).toBeGreaterThan(10);
    for (const [, name] of used) expect(commands).toContain(name);
  });
});
