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
Runs Torpor's own Node.js, which needs no build step for TypeScript, in place of this process.
The program finds @torpor/sdk wherever its file is, and the address and key of the API in its
environment. All arguments are those of node(1).

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
          throw new TorporError('host_setup', 'This Node.js cannot replace a process.');
        }
        process.execve(process.execPath, [process.execPath, '--import', resolver, ...args], env);
      }),
    );
}
