/** The first error, where undoing the operation failed as well. */
export function originalError(error: unknown): unknown {
  let original = error;
  while (original instanceof SuppressedError) original = original.suppressed;
  return original;
}
