/** Hashes of passwords: scrypt (RFC 7914), with a cost that OWASP's "Password Storage Cheat Sheet" recommends. */
import { randomBytes, type ScryptOptions, scrypt, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';
import { TorporError } from '@torpor/protocol';

const LOG2_N = 14;
const BLOCK_SIZE = 8;
const PARALLELISM = 5;
const KEY_BYTES = 32;
const SALT_BYTES = 16;
/** What scrypt may take; with the cost above it takes 16 MiB. */
const MAX_MEMORY_BYTES = 32 * 1024 * 1024;
/** Hashes that are computed at once, each on a thread of the pool that files use too. */
const MAX_CONCURRENT = 2;
/** Hashes that wait for that: those of a few seconds. More would be computed for clients that have given up. */
const MAX_WAITING = 32;
const RETRY_AFTER_SEC = 5;

const derive = promisify<string, Buffer, number, ScryptOptions, Buffer>(scrypt);

/** `scrypt$log2(N)$r$p$salt$key`, the last two in base64url. Throws `rate_limited` if too many hashes are waited for. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(SALT_BYTES);
  const cost = { log2n: LOG2_N, r: BLOCK_SIZE, p: PARALLELISM };
  const key = await limited(() => keyOf(password, salt, cost));
  return format(cost, salt, key);
}

/**
 * Takes as long if there is no hash: that an account does not exist cannot be told from the time.
 * Throws `rate_limited` if too many hashes are waited for.
 */
export async function verifyPassword(
  password: string,
  hash: string | null | undefined,
): Promise<boolean> {
  const parsed = parse(hash ?? NO_PASSWORD);
  const key = await limited(() => keyOf(password, parsed.salt, parsed.cost));
  return timingSafeEqual(key, parsed.key) && typeof hash === 'string';
}

interface Cost {
  readonly log2n: number;
  readonly r: number;
  readonly p: number;
}

function keyOf(password: string, salt: Buffer, { log2n, r, p }: Cost): Promise<Buffer> {
  // The same password can be typed as different sequences of code points.
  return derive(password.normalize('NFKC'), salt, KEY_BYTES, {
    N: 2 ** log2n,
    r,
    p,
    maxmem: MAX_MEMORY_BYTES,
  });
}

function format({ log2n, r, p }: Cost, salt: Buffer, key: Buffer): string {
  return ['scrypt', log2n, r, p, salt.toString('base64url'), key.toString('base64url')].join('$');
}

function parse(hash: string) {
  const [scheme, log2n, r, p, salt = '', key = ''] = hash.split('$');
  const keyBytes = Buffer.from(key, 'base64url');
  if (scheme !== 'scrypt' || keyBytes.length !== KEY_BYTES) {
    throw new Error('A password hash of the database has an unknown form.');
  }
  return {
    cost: { log2n: Number(log2n), r: Number(r), p: Number(p) },
    salt: Buffer.from(salt, 'base64url'),
    key: keyBytes,
  };
}

/** The hash of no password. */
const NO_PASSWORD = format(
  { log2n: LOG2_N, r: BLOCK_SIZE, p: PARALLELISM },
  randomBytes(SALT_BYTES),
  randomBytes(KEY_BYTES),
);

let running = 0;
const waiting: (() => void)[] = [];

async function limited<T>(work: () => Promise<T>): Promise<T> {
  if (running < MAX_CONCURRENT) running += 1;
  else if (waiting.length < MAX_WAITING) {
    await new Promise<void>((resolve) => waiting.push(resolve));
  } else throw tooManyHashes();
  try {
    return await work();
  } finally {
    const next = waiting.shift();
    // The next one takes over this one's place.
    if (next === undefined) running -= 1;
    else next();
  }
}

function tooManyHashes(): TorporError {
  return new TorporError(
    'rate_limited',
    `The server is checking as many passwords as it can; try again in ${RETRY_AFTER_SEC} s.`,
    { retryAfterSec: RETRY_AFTER_SEC },
  );
}
