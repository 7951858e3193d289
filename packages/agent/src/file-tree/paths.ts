/** A path of bytes, as a file's name need not be UTF-8. */
export function join(directory: Buffer, name: Buffer | string): Buffer {
  return Buffer.concat([directory, SLASH, Buffer.from(name)]);
}

const SLASH = Buffer.from('/');
