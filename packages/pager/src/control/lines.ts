import type { Socket } from 'node:net';

/**
 * Calls `onLine` for each line that arrives. A line longer than `maxBytes` closes the
 * connection: our clients send none.
 */
export function readLines(socket: Socket, maxBytes: number, onLine: (line: string) => void): void {
  let pending: Buffer[] = [];
  let size = 0;
  socket.on('data', (chunk: Buffer) => {
    let from = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, from)) {
      const line = Buffer.concat([...pending, chunk.subarray(from, end)]).toString();
      pending = [];
      size = 0;
      from = end + 1;
      onLine(line);
    }
    const rest = chunk.subarray(from);
    if (rest.length === 0) return;
    pending.push(rest);
    size += rest.length;
    if (size > maxBytes) socket.destroy();
  });
}
