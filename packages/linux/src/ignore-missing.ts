/** For `catch`: undefined in place of ENOENT, the error of a file that does not exist. */
export function ignoreMissing(error: unknown): undefined {
  if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
  throw error;
}
