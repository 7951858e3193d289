import type { Fact } from '@torpor/agent/host-setup';
import type { Config } from '@torpor/control-plane/config';
import { TorporError } from '@torpor/sdk/basics';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { type CommonOptions, findEndpoint, readConfig } from '../client/settings.ts';
import { EXIT } from '../exit-codes.ts';
import { type Io, json, line } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import { hostSettings } from '../platform/host-settings.ts';
import { VERSION } from '../version.ts';

interface DoctorOptions extends CommonOptions {
  readonly probe?: boolean;
}

const MARKS = { found: '✓', absent: '-', degraded: '!', missing: '✗' } as const;
/** Long, because a slow server is running; if there is none, the connection fails at once. */
const HEALTH_TIMEOUT_MS = 15_000;

export function registerDoctor(cli: CliContext): void {
  const command = cli.command(
    'doctor',
    'check everything that Torpor needs, and say how to get what is missing',
  );
  command
    .option('--probe', 'try KVM again, even if the result of an earlier probe is known')
    .action(
      cli.action(async (options: DoctorOptions, _command: Command) => {
        // Loaded here, because it loads the code of the host, which most commands do not need.
        const { checkRequirements, collectFacts, remedyOf, requirementsFor, vmmFacts } =
          await import('@torpor/agent/host-setup');
        const config = await readConfig(cli.io, options);
        const settings = hostSettings(config);
        const { dataDir } = settings;
        const checked = await checkRequirements(requirementsFor(settings));
        const facts: Fact[] = [
          ...checked.map(({ requirement, result }) => ({
            id: requirement.id,
            result,
            remedy: requirementRemedy(remedyOf({ requirement, result }), requirement.packages),
          })),
          ...(await collectFacts(dataDir)),
          ...(await vmmFacts(settings, {
            probe: options.probe,
            onProbe: () => printStatus(cli.io, 'booting a guest under KVM and in emulation'),
          })),
          (await enrolmentFact(dataDir)) ?? (await serverFact(config)),
        ];
        const healthy = facts.every(({ result }) => result.state !== 'missing');
        if (options.json) {
          const checks = facts.map(({ id, result, remedy }) => ({
            id,
            ...result,
            ...(result.state === 'found' || remedy === '' ? {} : { remedy }),
          }));
          await json(cli.io, { version: VERSION, data_dir: dataDir, healthy, checks });
        } else {
          await print(cli.io, facts);
          await line(cli.io.stdout);
          await line(
            cli.io.stdout,
            healthy
              ? `Torpor ${VERSION} can run here. Data directory: ${dataDir}`
              : `Torpor ${VERSION} cannot run here yet: see the lines marked ${MARKS.missing}.`,
          );
        }
        return healthy ? EXIT.ok : EXIT.hostSetup;
      }),
    );
}

async function print({ stdout }: Io, facts: readonly Fact[]): Promise<void> {
  const width = Math.max(...facts.map(({ id }) => id.length));
  for (const { id, result, remedy } of facts) {
    await line(stdout, `${MARKS[result.state]} ${id.padEnd(width)}  ${result.detail}`);
    if (result.state !== 'found' && remedy !== '') {
      await line(stdout, `  ${''.padEnd(width)}  → ${remedy}`);
    }
  }
}

function requirementRemedy(remedy: string, packages: readonly string[]): string {
  return packages.length === 0
    ? remedy
    : `${remedy} On Debian, \`torpor setup\` does it (${packages.join(', ')}).`;
}

/** Of a machine that has joined a control plane: whether that can be reached. Undefined for others. */
async function enrolmentFact(dataDir: string): Promise<Fact | undefined> {
  const { enrolmentStatus } = await import('@torpor/agent/enrolment');
  const id = 'enrolment';
  try {
    const status = await enrolmentStatus(dataDir);
    if (status === undefined) return undefined;
    const { hostId, url, expiresAt, problem } = status;
    const host = `the host ${hostId} of ${url}`;
    if (problem === undefined) {
      const detail = `${host}, with a certificate until ${expiresAt.toISOString()}`;
      return { id, result: { state: 'found', detail }, remedy: '' };
    }
    const detail = `${host}: ${problem.message}`;
    return { id, result: { state: 'degraded', detail }, remedy: problem.remedy };
  } catch (reason) {
    const { message, remedy } = TorporError.from(reason);
    return { id, result: { state: 'missing', detail: message }, remedy };
  }
}

/** Whether a server responds at the address that clients use. None is not a fault. */
async function serverFact(config: Config): Promise<Fact> {
  const { apiUrl } = await findEndpoint(config);
  try {
    const { Torpor } = await import('@torpor/sdk');
    await using torpor = new Torpor({ apiUrl });
    const { version } = await torpor.health(AbortSignal.timeout(HEALTH_TIMEOUT_MS));
    const result = {
      state: 'found',
      detail: `version ${version}, listening on ${apiUrl}`,
    } as const;
    return { id: 'server', result, remedy: '' };
  } catch (reason) {
    const error = TorporError.from(reason);
    const result = { state: 'degraded', detail: `no response from ${apiUrl}` } as const;
    return { id: 'server', result, remedy: error.remedy };
  }
}
