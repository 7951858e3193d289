/** A message of another program with a full stop, unless it has one. */
export function withFullStop(message: string): string {
  const text = message.trimEnd();
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
