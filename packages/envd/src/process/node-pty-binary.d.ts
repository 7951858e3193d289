declare module '@lydell/node-pty/requireBinary.js' {
  /** Loads a native addon of node-pty's platform package. */
  export function requireBinary(file: string): unknown;
}
