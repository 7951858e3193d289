// `npm run bench`: the benchmarks, on a machine that has only Node >= 20 and npm.
import { join } from 'node:path';
import { execScript } from '../packages/cli/bin/bundled-node.mjs';
import { assertPlatform, ensureDependencies, REPOSITORY } from './lib/bootstrap.mjs';

assertPlatform();
ensureDependencies();
execScript(join(REPOSITORY, 'bench/main.ts'), process.argv.slice(2));
