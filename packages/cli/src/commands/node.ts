import { TorporError } from '@torpor/sdk/basics';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { type CommonOptions, findEndpoint, readConfig } from '../client/settings.ts';
import { endpointVariables } from './env.ts';

export function registerNode(cli: CliContext): void {
  cli
    .command('node [arguments...]', 'run a TypeScript or JavaScript program that uses @torpor/sdk')
    .passThroughOptions()
    .allowUnknownOption()
    .addHelpText(
      'after',
      `
Replaces this process with Torpor's own Node.js, which runs TypeScript without a build step. The
program can import @torpor/sdk wherever its file is, and has the address and key of the API in
its environment. All arguments are passed to node(1).

Examples:
  torpor node examples/first-sandbox.ts
  torpor node --watch agent.ts`,
    )
    .action(
      cli.action(async (args: string[], options: CommonOptions, _command: Command) => {
        const endpoint = await findEndpoint(await readConfig(cli.io, options));
        const resolver = new URL('../node/resolve-sdk.mjs', import.meta.url).href;
        const env = { ...cli.io.env, ...endpointVariables(endpoint) };
        if (process.execve === undefined) {
          throw new TorporError(
            'host_setup',
            'This version of Node.js cannot replace its own process.',
          );
        }
        process.execve(process.execPath, [process.execPath, '--import', resolver, ...args], env);
      }),
    );
}
