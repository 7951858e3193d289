/** How much of the old end is looked for in the new content. */
const ANCHOR_BYTES = 256;

/**
 * What was appended to a bounded log between two readings: the new content after
 * the place where the old one stopped, or all of it if that place was dropped.
 */
export function appendedPart(previous: Buffer, current: Buffer): Buffer {
  if (current.length >= previous.length && current.subarray(0, previous.length).equals(previous)) {
    return current.subarray(previous.length);
  }
  const anchor = previous.subarray(-ANCHOR_BYTES);
  const at = anchor.length === 0 ? -1 : current.lastIndexOf(anchor);
  return at === -1 ? current : current.subarray(at + anchor.length);
}
