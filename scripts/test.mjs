// `npm test` and `npm run test:unit`, `test:host`, `test:vm`, on a machine that has only
// Node >= 20 and npm. Arguments: the projects, then filters and options of vitest.
import { join } from 'node:path';
import { becomeScript } from '../packages/cli/bin/brought-node.mjs';
import { assertPlatform, ensureDependencies, REPOSITORY } from './lib/bootstrap.mjs';

assertPlatform();
ensureDependencies();
becomeScript(join(REPOSITORY, 'scripts/lib/run-tests.ts'), process.argv.slice(2));
