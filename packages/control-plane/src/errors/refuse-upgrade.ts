import type { Duplex } from 'node:stream';
import type { TorporError } from '@torpor/protocol';
import { errorBody } from './public-error.ts';

/** Rejects a request to upgrade a connection with an HTTP error, and closes the connection. */
export function refuseUpgrade(socket: Duplex, error: TorporError): void {
  const body = JSON.stringify(errorBody(error));
  socket.end(
    `HTTP/1.1 ${error.httpStatus} Refused\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}
