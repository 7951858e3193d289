import { readFile } from 'node:fs/promises';

export interface CodeBlock {
  readonly language: string;
  readonly code: string;
}

const README = new URL('../../README.md', import.meta.url);

/** The blocks of code in README.md that have a language, in order. */
export async function readmeBlocks(): Promise<CodeBlock[]> {
  const text = await readFile(README, 'utf8');
  return [...text.matchAll(/^```(\w+)\n(.*?)^```/gms)].map(([, language = '', code = '']) => ({
    language,
    code,
  }));
}
