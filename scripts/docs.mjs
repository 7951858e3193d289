// `npm run docs`: writes docs/errors.md and docs/cli.md, on a machine that has only Node >= 20 and npm.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { execScript, findBundledNode } from '../packages/cli/bin/bundled-node.mjs';
import { assertPlatform, ensureDependencies, REPOSITORY } from './lib/bootstrap.mjs';

assertPlatform();
ensureDependencies();
const errors = join(REPOSITORY, 'packages/protocol/src/error-catalogue/write.ts');
execFileSync(findBundledNode(), [errors], { stdio: 'inherit' });
execScript(join(REPOSITORY, 'packages/cli/src/reference/write.ts'), []);
