// `npm start`: starts the platform, also in a fresh clone. Runs on Node >= 20.
import { join } from 'node:path';
import { execScript } from '../packages/cli/bin/bundled-node.mjs';
import { assertPlatform, ensureDependencies, REPOSITORY } from './lib/bootstrap.mjs';

assertPlatform();
ensureDependencies();
execScript(join(REPOSITORY, 'packages/cli/bin/torpor.mjs'), [
  'up',
  '--setup',
  ...process.argv.slice(2),
]);
