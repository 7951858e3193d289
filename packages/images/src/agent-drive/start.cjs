'use strict';

/* Node's entry point in the guest: the bundle of envd, with the bytecode that was built with the drive. */

const { loadBundle } = require('./load-bundle.cjs');

const { envd, script, started } = loadBundle(__dirname);
if (script.cachedDataRejected !== false) console.error('envd: no bytecode for this Node');
envd.runDaemon(process.argv.slice(2)).then(started, (error) => {
  console.error('envd:', error);
  process.exit(1);
});
