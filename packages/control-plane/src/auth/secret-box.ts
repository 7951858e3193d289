import { createCipheriv, createDecipheriv, createHmac, hkdfSync, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { TorporError } from '@torpor/protocol';
import { writePrivateFile } from '../data-directory/private-file.ts';

const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const VERSION = 'v1';
const FILE_NAME = 'secret.key';

/**
 * Encrypts what must be stored and read again: the secrets of webhooks, for example.
 * AES-256-GCM with a key for each purpose, derived from the secret key (RFC 5869). The
 * purpose is part of what is authenticated, so that one cannot be passed off as another.
 */
export class SecretBox {
  readonly #secretKey: Uint8Array;

  /** `secretKey`: 32 bytes. */
  constructor(secretKey: Uint8Array) {
    this.#secretKey = secretKey;
  }

  /**
   * With the key of the setting `secret_key`, or else of the file `secret.key` in the data
   * directory, which is made at the first start. Throws `host_setup` if it is not a key.
   */
  static async open(dataDir: string, configured: string | undefined): Promise<SecretBox> {
    const known = await SecretBox.read(dataDir, configured);
    if (known !== undefined) return known;
    const key = randomBytes(KEY_BYTES);
    await writePrivateFile(join(dataDir, FILE_NAME), `${key.toString('base64')}\n`);
    return new SecretBox(key);
  }

  /** As {@link open}, but undefined if there is no key yet. */
  static async read(
    dataDir: string,
    configured: string | undefined,
  ): Promise<SecretBox | undefined> {
    if (configured !== undefined) return new SecretBox(parseKey(configured, 'secret_key'));
    const path = join(dataDir, FILE_NAME);
    const known = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    return known === undefined ? undefined : new SecretBox(parseKey(known.trim(), path));
  }

  seal(purpose: string, text: string): string {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv('aes-256-gcm', this.#keyFor(purpose), nonce);
    cipher.setAAD(Buffer.from(purpose));
    const sealed = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
    const bytes = Buffer.concat([nonce, cipher.getAuthTag(), sealed]);
    return `${VERSION}.${bytes.toString('base64url')}`;
  }

  /** Throws `host_setup` for what another key has sealed. */
  open(purpose: string, sealed: string): string {
    const [version, encoded = ''] = sealed.split('.');
    const bytes = Buffer.from(encoded, 'base64url');
    try {
      if (version !== VERSION) throw new Error(`Its version is ${version}.`);
      const nonce = bytes.subarray(0, NONCE_BYTES);
      const decipher = createDecipheriv('aes-256-gcm', this.#keyFor(purpose), nonce);
      decipher.setAAD(Buffer.from(purpose));
      decipher.setAuthTag(bytes.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
      const text = decipher.update(bytes.subarray(NONCE_BYTES + TAG_BYTES));
      return Buffer.concat([text, decipher.final()]).toString('utf8');
    } catch (error) {
      throw new TorporError('host_setup', 'A secret of the database cannot be decrypted.', {
        remedy:
          'Start with the secret key that the database was used with: secret_key, or secret.key in the data directory.',
        cause: error,
      });
    }
  }

  /** The same for the same text; reveals nothing about the text to who does not have the key. */
  fingerprint(purpose: string, text: string): string {
    return createHmac('sha256', this.#keyFor(`${purpose}.fingerprint`))
      .update(text)
      .digest('hex');
  }

  #keyFor(purpose: string): Uint8Array {
    return new Uint8Array(hkdfSync('sha256', this.#secretKey, '', purpose, KEY_BYTES));
  }
}

function parseKey(text: string, origin: string): Uint8Array {
  const key = Buffer.from(text, 'base64');
  if (/^[A-Za-z0-9+/]{43}=$/.test(text) && key.length === KEY_BYTES) return key;
  throw new TorporError('host_setup', `${origin} is not a secret key.`, {
    remedy: 'It must be 32 random bytes in base64: `openssl rand -base64 32`.',
  });
}
