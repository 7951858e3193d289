import { execFile } from 'node:child_process';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Benchmark, SeriesSpec } from '../harness/benchmark.ts';
import { type Contender, interleave } from '../harness/interleave.ts';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const LAUNCHER = 'packages/cli/bin/torpor.mjs';

/** bash(1)'s `time`: the processor time of a program and its descendants, in milliseconds. */
const TIME_PROGRAM = `TIMEFORMAT='%3U %3S'; time "$@" > /dev/null 2>&1`;

const COMMANDS: Readonly<Record<string, readonly string[]>> = {
  version: ['--version'],
  help: ['--help'],
  ls: ['ls'],
};

/** Another checkout, such as one of an earlier version, with its npm packages. */
const EARLIER = process.env.TORPOR_BENCH_EARLIER;

export const cliStart: Benchmark = {
  name: 'cli-start',
  title: 'Starting the command line',
  method:
    'Processor time (user and system) of whole processes, from the start to the exit: `node -e 0` ' +
    "with the project's Node, and `torpor --version`, `torpor --help` and `torpor ls` as a shell starts " +
    'them; `ls` asks a server that responds at once with an empty list. Beside them the same commands ' +
    'through `node packages/cli/bin/torpor.mjs`, with the Node of the `PATH`, which replaces itself by ' +
    "the project's if it is older than 24; and, where `TORPOR_BENCH_EARLIER` names a checkout of an " +
    'earlier version, that one in the same way.',
  series: {
    node: series('`node -e 0`'),
    ...Object.fromEntries(
      Object.entries(COMMANDS).flatMap(([name, args]) => {
        const title = `\`torpor ${args.join(' ')}\``;
        return [
          [name, series(title)],
          [`${name}-path`, series(`${title} through the Node of the PATH`)],
          [`${name}-earlier`, series(`${title} of the earlier version, through the same`)],
        ];
      }),
    ),
  },
  comparisons: Object.entries(COMMANDS).flatMap(([name, args]) => {
    const title = `torpor ${args.join(' ')}`;
    return [
      { title: `${title} ÷ node -e 0`, of: name, to: 'node' },
      {
        title: `${title} through the Node of the PATH ÷ node -e 0`,
        of: `${name}-path`,
        to: 'node',
      },
      {
        title: `${title} of the earlier version ÷ node -e 0`,
        of: `${name}-earlier`,
        to: 'node',
        isOptional: true,
      },
    ];
  }),
  costs: () => [],
  async run(context) {
    const api = createServer((_request, response) => {
      response.setHeader('content-type', 'application/json').end('{"sandboxes":[]}');
    });
    await new Promise<void>((resolve) => api.listen(0, '127.0.0.1', resolve));
    const apiUrl = `http://127.0.0.1:${(api.address() as AddressInfo).port}`;
    const contenders: Record<string, Contender> = {
      node: measured(apiUrl, [process.execPath, '-e', '0']),
    };
    for (const [name, args] of Object.entries(COMMANDS)) {
      const launcher = join(REPOSITORY, 'packages/cli/bin/torpor');
      contenders[name] = measured(apiUrl, [launcher, ...args]);
      contenders[`${name}-path`] = measured(apiUrl, ['node', join(REPOSITORY, LAUNCHER), ...args]);
      if (EARLIER !== undefined) {
        contenders[`${name}-earlier`] = measured(apiUrl, [
          'node',
          join(EARLIER, LAUNCHER),
          ...args,
        ]);
      }
    }
    try {
      await interleave(context, context.quick ? 2 : 20, contenders);
    } finally {
      api.close();
    }
  },
};

function series(title: string): SeriesSpec {
  return { title, unit: 'ms' };
}

function measured(apiUrl: string, command: readonly string[]): Contender {
  return async () => {
    const { stderr } = await promisify(execFile)('bash', ['-c', TIME_PROGRAM, 'bash', ...command], {
      env: { ...process.env, TORPOR_API_URL: apiUrl, TORPOR_API_KEY: `tpr_${'0'.repeat(40)}` },
    });
    const [user, system] = stderr.trim().split(' ').map(Number);
    return 1000 * ((user ?? Number.NaN) + (system ?? Number.NaN));
  };
}
