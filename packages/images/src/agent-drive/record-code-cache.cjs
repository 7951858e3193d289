'use strict';

/*
 * Runs the bundle of envd in the given directory, makes the requests that every sandbox makes,
 * and writes the bytecode that V8 has by then to `envd.cache`. V8 compiles a function when it
 * is first called, so the cache has the functions that were used.
 */

const { writeFileSync } = require('node:fs');
const { userInfo } = require('node:os');
const { loadBundle } = require('./load-bundle.cjs');

async function main(directory) {
  const { envd: bundle, script } = loadBundle(directory);
  const user = userInfo().username;
  const envd = await bundle.runDaemon([...['--host', '127.0.0.1', '--port', '0', '--user', user]]);
  const url = (path) => `http://127.0.0.1:${envd.port}${path}`;
  const get = (path) => checked(fetch(url(path)));
  const post = (path, type, body) =>
    checked(fetch(url(path), { method: 'POST', headers: { 'content-type': type }, body }));
  await get('/health');
  await post('/init', 'application/json', JSON.stringify({ envVars: { LANG: 'C.UTF-8' } }));
  await post('/process.Process/List', 'application/json', '{}');
  const start = { process: { cmd: '/bin/true' }, stdin: false };
  await post('/process.Process/Start', 'application/connect+json', envelope(start));
  const directoryRequest = JSON.stringify({ path: '/', depth: 1 });
  await post('/filesystem.Filesystem/ListDir', 'application/json', directoryRequest);
  await get(`/files?path=${encodeURIComponent(`${directory}/envd.cjs`)}`);
  await get('/metrics');
  writeFileSync(`${directory}/envd.cache`, script.createCachedData());
  await envd.close();
}

async function checked(pending) {
  const response = await pending;
  await response.arrayBuffer();
  if (response.status >= 300) throw new Error(`${response.url} returned ${response.status}`);
}

/** One message of a stream in the Connect protocol: flags, length, JSON. */
function envelope(message) {
  const body = Buffer.from(JSON.stringify(message));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(body.length, 1);
  return Buffer.concat([head, body]);
}

main(process.argv[2]).then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
