import type { ServerResponse } from 'node:http';

/** Responds with a JSON body. */
export function sendJson(response: ServerResponse, status: number, body: unknown): void {
  const text = JSON.stringify(body);
  response
    .writeHead(status, {
      'Content-Type': 'application/json',
      'Content-Length': Buffer.byteLength(text),
      'Cache-Control': 'no-store',
    })
    .end(text);
}

/** Responds with an error in the form of E2B's envd. */
export function sendError(response: ServerResponse, status: number, message: string): void {
  sendJson(response, status, { code: status, message });
}
