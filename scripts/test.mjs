// `npm test` and `npm run test:unit`, `test:host`, `test:vm`, on a machine that has only
// Node >= 20 and npm. Arguments: the projects, then filters and options of vitest.
import { join } from 'node:path';
import { execScript } from '../packages/cli/bin/bundled-node.mjs';
import { assertPlatform, ensureDependencies, REPOSITORY } from './lib/bootstrap.mjs';

assertPlatform();
ensureDependencies();
execScript(join(REPOSITORY, 'scripts/lib/run-tests.ts'), process.argv.slice(2));
