import type { ServerResponse } from 'node:http';
import { ENVD_TIMING } from '@torpor/protocol';

type WriteHead = (...parts: unknown[]) => ServerResponse;

/** Says in the header of a response how long it took until it began: https://www.w3.org/TR/server-timing/ */
export function reportTiming(response: ServerResponse): void {
  const startedAt = performance.now();
  const writeHead = response.writeHead.bind(response) as WriteHead;
  const withTiming: WriteHead = (...parts) => {
    const milliseconds = (performance.now() - startedAt).toFixed(1);
    response.setHeader('Server-Timing', `${ENVD_TIMING};dur=${milliseconds}`);
    return writeHead(...parts);
  };
  response.writeHead = withTiming as ServerResponse['writeHead'];
}
