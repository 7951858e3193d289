import type { Command } from 'commander';
import { createProgram } from '../cli.ts';
import { CliContext } from '../cli-context.ts';
import { registerCommands } from '../commands/index.ts';
import { processIo } from '../io.ts';

export const REFERENCE_FILE = new URL('../../../../docs/cli.md', import.meta.url);

const WIDTH = 100;

const INTRODUCTION = `# The command line

Written by \`npm run docs\` from the commands themselves; do not edit. It is what \`torpor COMMAND --help\` prints.`;

/** `docs/cli.md`: the help of every command. */
export async function renderReference(): Promise<string> {
  let written = '';
  const program = createProgram().configureOutput({
    writeOut: (text) => {
      written += text;
    },
    getOutHelpWidth: () => WIDTH,
  });
  await registerCommands(new CliContext(processIo(), program), []);
  const sections = [program, ...descendants(program)].map((command) => {
    written = '';
    command.outputHelp();
    return `## ${fullName(command)}\n\n\`\`\`text\n${written.trimEnd()}\n\`\`\``;
  });
  return `${[INTRODUCTION, ...sections].join('\n\n')}\n`;
}

function descendants(command: Command): Command[] {
  return command.commands.flatMap((child) => [child, ...descendants(child)]);
}

function fullName(command: Command): string {
  return command.parent === null ? command.name() : `${fullName(command.parent)} ${command.name()}`;
}
