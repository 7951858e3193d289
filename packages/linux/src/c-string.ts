/** Bytes as C takes a string of them; for paths and names that need not be UTF-8. */
export function cString(text: Buffer): Buffer {
  return Buffer.concat([text, Buffer.of(0)]);
}
