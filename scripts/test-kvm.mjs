// `npm run test:kvm`: the CLI under KVM, inside an emulated machine (docs/testing-kvm.md).
import { join } from 'node:path';
import { execScript } from '../packages/cli/bin/bundled-node.mjs';
import { assertPlatform, ensureDependencies, REPOSITORY } from './lib/bootstrap.mjs';

assertPlatform();
ensureDependencies();
execScript(join(REPOSITORY, 'tests/kvm/main.ts'), process.argv.slice(2));
