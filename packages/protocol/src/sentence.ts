/** The end of a sentence in somebody else's words: with a full stop, unless they bring their own. */
export function withFullStop(words: string): string {
  const text = words.trimEnd();
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
