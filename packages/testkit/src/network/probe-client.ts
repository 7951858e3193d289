/**
 * A program: requests `GET /` from all targets concurrently and prints a JSON
 * array of the outcomes in the same order.
 * `node probe-client.ts '<ProbeRequest as JSON>'`.
 */
import { createSocket } from 'node:dgram';
import { request as httpRequest } from 'node:http';
import type { Outcome, ProbeRequest, ProbeTarget } from './probe-request.ts';

const request = JSON.parse(process.argv[2] ?? '') as ProbeRequest;
if (request.uid !== undefined) process.setuid?.(request.uid);

function visit(target: ProbeTarget): Promise<Outcome> {
  return new Promise((resolve) => {
    const outgoing = httpRequest(
      {
        host: target.address,
        port: target.port,
        ...(request.sourceAddress === undefined ? {} : { localAddress: request.sourceAddress }),
      },
      (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          body += chunk;
        });
        response.on('end', () => resolve({ reached: true, response: JSON.parse(body) }));
      },
    );
    const timer = setTimeout(() => {
      resolve({ reached: false, code: 'silence' });
      outgoing.destroy();
    }, request.timeoutMs);
    outgoing.on('close', () => clearTimeout(timer));
    outgoing.on('error', (error: NodeJS.ErrnoException) => {
      resolve({ reached: false, code: error.code ?? error.message });
    });
    outgoing.end();
  });
}

function send(target: ProbeTarget, text: string): Promise<Outcome> {
  return new Promise((resolve) => {
    const socket = createSocket('udp4');
    socket.bind(0, request.sourceAddress, () => {
      socket.send(text, target.port, target.address, (error) => {
        socket.close();
        resolve(
          error === null
            ? { reached: false, code: 'sent' }
            : { reached: false, code: error.message },
        );
      });
    });
  });
}

const { datagram } = request;
const outcomes = await Promise.all(
  request.targets.map((target) =>
    datagram === undefined ? visit(target) : send(target, datagram),
  ),
);
process.stdout.write(JSON.stringify(outcomes));
