/** How much of the end of the old content is searched for in the new content. */
const ANCHOR_BYTES = 256;

/**
 * The part that was appended to a bounded log between two reads: the new content after
 * the end of the old one, or all of it if that was dropped.
 */
export function appendedPart(previous: Buffer, current: Buffer): Buffer {
  if (current.length >= previous.length && current.subarray(0, previous.length).equals(previous)) {
    return current.subarray(previous.length);
  }
  const anchor = previous.subarray(-ANCHOR_BYTES);
  const at = anchor.length === 0 ? -1 : current.lastIndexOf(anchor);
  return at === -1 ? current : current.subarray(at + anchor.length);
}
