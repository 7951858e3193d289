import { TorporError } from '@torpor/sdk/basics';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { type CommonOptions, type Endpoint, findEndpoint, readConfig } from '../client/settings.ts';
import { json, line } from '../io.ts';

export function registerEnv(cli: CliContext): void {
  cli
    .command(
      'env',
      'print shell exports with the address and key of the API, for the SDK and for E2B clients',
    )
    .addHelpText('after', '\nExample: eval "$(torpor env)"')
    .action(
      cli.action(async (options: CommonOptions, _command: Command) => {
        const variables = endpointVariables(await findEndpoint(await readConfig(cli.io, options)));
        if (options.json) return await json(cli.io, variables);
        for (const [name, value] of Object.entries(variables)) {
          await line(cli.io.stdout, `export ${name}=${quoteForShell(value)}`);
        }
      }),
    );
}

/** The environment variables for clients of the API. Throws `not_found` if there is no key. */
export function endpointVariables({ apiUrl, apiKey, dataDir }: Endpoint): Record<string, string> {
  if (apiKey === undefined) {
    throw new TorporError('not_found', `There is no API key in ${dataDir}.`, {
      remedy: 'Start Torpor once with `npm start`; only root can read the key.',
    });
  }
  return {
    TORPOR_API_URL: apiUrl,
    TORPOR_API_KEY: apiKey,
    TORPOR_DATA_DIR: dataDir,
    // Older E2B clients require their own prefix; the key is the same.
    E2B_API_KEY: apiKey.replace(/^tpr_/, 'e2b_'),
    E2B_API_URL: apiUrl,
  };
}

/** Quotes any value as one word of a POSIX shell. */
export function quoteForShell(value: string): string {
  return `'${value.replaceAll("'", `'\\''`)}'`;
}
