const DEFAULT_KEEPALIVE_SECONDS = 90;
const MAX_KEEPALIVE_SECONDS = 24 * 3600;

/**
 * After how much silence, in milliseconds, a stream sends a keepalive: the client's
 * `Keepalive-Ping-Interval` header, in seconds, else 90 s.
 */
export function keepaliveMs(headers: Headers): number {
  const asked = Number.parseInt(headers.get('keepalive-ping-interval') ?? '', 10);
  const seconds = Number.isNaN(asked) || asked <= 0 ? DEFAULT_KEEPALIVE_SECONDS : asked;
  return Math.min(seconds, MAX_KEEPALIVE_SECONDS) * 1000;
}
