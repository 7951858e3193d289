/** The results of a walk's steps, which the walk prints as its last line for the program that runs the machine. */
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
