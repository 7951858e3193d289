// `npm run docs`: writes docs/cli.md, on a machine that has only Node >= 20 and npm.
import { join } from 'node:path';
import { execScript } from '../packages/cli/bin/bundled-node.mjs';
import { assertPlatform, ensureDependencies, REPOSITORY } from './lib/bootstrap.mjs';

assertPlatform();
ensureDependencies();
execScript(join(REPOSITORY, 'packages/cli/src/reference/write.ts'), []);
