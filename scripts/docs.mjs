// `npm run docs`: writes docs/cli.md, on a machine that has only Node >= 20 and npm.
import { join } from 'node:path';
import { becomeScript } from '../packages/cli/bin/brought-node.mjs';
import { assertPlatform, ensureDependencies, REPOSITORY } from './lib/bootstrap.mjs';

assertPlatform();
ensureDependencies();
becomeScript(join(REPOSITORY, 'packages/cli/src/reference/write.ts'), []);
