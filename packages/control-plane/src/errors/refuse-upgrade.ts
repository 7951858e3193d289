import type { Duplex } from 'node:stream';
import type { TorporError } from '@torpor/protocol';
import { errorBody } from './public-error.ts';

/** Rejects a request to upgrade a connection with an HTTP error, and closes the connection. */
export function refuseUpgrade(socket: Duplex, error: TorporError, requestId?: string): void {
  const headers = [
    'Content-Type: application/json',
    'Connection: close',
    ...(requestId === undefined ? [] : [`X-Request-Id: ${requestId}`]),
    ...(error.retryAfterSec === undefined ? [] : [`Retry-After: ${error.retryAfterSec}`]),
  ];
  const body = JSON.stringify(errorBody(error));
  socket.end(
    `HTTP/1.1 ${error.httpStatus} Refused\r\n${headers.join('\r\n')}\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}
