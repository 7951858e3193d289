export interface EnvdOptions {
  /** Default 49983; 0 for any free port. */
  readonly port?: number;
  /** Address to listen on. Default 127.0.0.1. */
  readonly host?: string;
  /** Account of requests without one, until `/init` changes it. Default `root`. */
  readonly defaultUser?: string;
  /** Working directory of commands without one. Default: the user's home. */
  readonly defaultWorkdir?: string;
  /** As set by a first `/init`. */
  readonly accessToken?: string;
  /** Default `PATH` of processes. */
  readonly searchPath?: string;
  /**
   * Whether `/init` may set the clock, the host name, /etc/hosts and so on, and
   * feed the kernel's random generator. Only for the daemon of a guest. Default false.
   */
  readonly systemInit?: boolean;
  /** Whether to shield the daemon from programs that take all CPU or memory. Needs root. Default false. */
  readonly protect?: boolean;
  /** Address on which loopback servers of the guest are made reachable; none by default. */
  readonly forwardTo?: string;
}
