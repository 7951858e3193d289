import { Torpor } from '@torpor/sdk';

await using torpor = new Torpor();
await using sandbox = await torpor.sandboxes.create();
await sandbox.start('python3', ['-m', 'http.server', '8000']);
const url = 'http://127.0.0.1:8000';
await sandbox.exec('curl', ['--silent', '--retry', '10', '--retry-connrefused', url]);
await torpor.snapshots.create(sandbox.id, { name: 'server', overwrite: true });

// In every sandbox created from the snapshot the server is already running.
await using copy = await torpor.sandboxes.create({ template: 'server' });
const { stdout } = await copy.exec('curl', ['--silent', '--head', url]);
console.log(stdout);

// Forks are copies of a running sandbox. They run until you destroy them.
const { sandboxes, errors } = await copy.fork(2);
console.log(sandboxes.length, 'copies,', errors.length, 'errors');
for (const fork of sandboxes) await fork.destroy();
