export interface ProbeTarget {
  readonly address: string;
  readonly port: number;
}

export type Outcome =
  | { readonly reached: true; readonly response: { readonly local: string; readonly peer: string } }
  /** An errno's name, or `silence`. */
  | { readonly reached: false; readonly code: string };

export interface ProbeRequest {
  readonly targets: readonly ProbeTarget[];
  /** How long to wait for a response: short if none is expected, because then it is waited in full. */
  readonly timeoutMs: number;
  readonly sourceAddress?: string;
  /** Run as this user. */
  readonly uid?: number;
  /** Send this in a UDP datagram to each target, instead of an HTTP request; no response is awaited. */
  readonly datagram?: string;
}
