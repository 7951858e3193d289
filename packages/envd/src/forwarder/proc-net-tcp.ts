export interface ListeningSocket {
  /** In the usual notation; IPv6 ones only for `::` and `::1`, else in hexadecimal. */
  readonly address: string;
  readonly port: number;
}

/** State of a listening socket; TCP_LISTEN in the kernel's tcp_states.h. */
const LISTEN = '0A';

/** The listening sockets in /proc/net/tcp or /proc/net/tcp6; proc_net_tcp(5). */
export function parseListening(table: string): ListeningSocket[] {
  const sockets: ListeningSocket[] = [];
  for (const line of table.split('\n').slice(1)) {
    const [, local, , state] = line.trim().split(/\s+/);
    const [hexAddress, hexPort] = local?.split(':') ?? [];
    if (state !== LISTEN || hexAddress === undefined || hexPort === undefined) continue;
    sockets.push({ address: readAddress(hexAddress), port: Number.parseInt(hexPort, 16) });
  }
  return sockets;
}

/** The kernel prints each 32-bit word of an address in the machine's (little-endian) order. */
function readAddress(hex: string): string {
  if (hex.length === 8) return ipv4(hex);
  const mapped = /^0000000000000000FFFF0000([0-9A-F]{8})$/.exec(hex)?.[1];
  if (mapped !== undefined) return ipv4(mapped);
  if (/^0+$/.test(hex)) return '::';
  if (hex === '00000000000000000000000001000000') return '::1';
  return hex;
}

function ipv4(hex: string): string {
  return [6, 4, 2, 0].map((at) => Number.parseInt(hex.slice(at, at + 2), 16)).join('.');
}
