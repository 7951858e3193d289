import { isIPv4 } from 'node:net';
import { type NamespaceOptions, runInNamespace } from './netns.ts';

/**
 * Resets the TCP connections of this namespace to an IPv4 address: their owners see
 * ECONNABORTED at once, and the other side gets a RST if it can be reached (ss(8) `-K`,
 * SOCK_DESTROY). A kernel without CONFIG_INET_DIAG_DESTROY resets none. Throws
 * RangeError and CommandError.
 */
export async function resetTcpConnections(
  address: string,
  options: NamespaceOptions = {},
): Promise<void> {
  if (!isIPv4(address)) {
    throw new RangeError(`${JSON.stringify(address)} is not an IPv4 address.`);
  }
  await runInNamespace(options.namespace, 'ss', [
    ...['--kill', '--tcp', '--no-header'],
    ...['state', 'connected', 'dst', address],
  ]);
}
