/** How the steps of a walk went. The walk says it in its last line, the one who runs the machine reads it. */
export interface Verdict {
  readonly passed: number;
  readonly failed: number;
}

const PREFIX = 'torpor-kvm-test:';

export function verdictLine({ passed, failed }: Verdict): string {
  return `${PREFIX} ${passed} passed, ${failed} failed`;
}

export function readVerdict(line: string): Verdict | undefined {
  const match = /^torpor-kvm-test: (\d+) passed, (\d+) failed$/.exec(line);
  return match === null ? undefined : { passed: Number(match[1]), failed: Number(match[2]) };
}
