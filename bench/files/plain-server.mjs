// A minimal Node HTTP server that stores and returns a file, as a baseline for envd's files.
// `node plain-server.mjs DIRECTORY PORT`; POST and GET /NAME.
import { createReadStream, createWriteStream, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream';

const [directory, port] = process.argv.slice(2);

const server = createServer((request, response) => {
  const path = join(directory, basename(request.url));
  const end = (error) => {
    if (error) response.destroy(error);
  };
  if (request.method === 'POST') {
    pipeline(request, createWriteStream(path), (error) => {
      response.writeHead(error ? 500 : 204).end();
    });
  } else {
    response.writeHead(200, { 'content-length': statSync(path).size });
    pipeline(createReadStream(path), response, end);
  }
});
server.listen(Number(port), () => {
  process.stdout.write(`${server.address().port}\n`);
});
