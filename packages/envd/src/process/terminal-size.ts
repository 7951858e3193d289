import { Code, ConnectError } from '@connectrpc/connect';
import type { TerminalSize } from './guest-process.ts';

const MAX_TERMINAL_SIDE = 65535;

/** The size of a new terminal; a missing side is that of a VT100. Throws ConnectError `invalid_argument`. */
export function terminalSize(size: TerminalSize | undefined): TerminalSize {
  const { cols, rows } = {
    cols: size?.cols || 80,
    rows: size?.rows || 24,
  };
  if (cols > MAX_TERMINAL_SIDE || rows > MAX_TERMINAL_SIDE) {
    throw new ConnectError(
      `a terminal has at most ${MAX_TERMINAL_SIDE} columns and rows`,
      Code.InvalidArgument,
    );
  }
  return { cols, rows };
}
