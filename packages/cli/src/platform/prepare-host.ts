import type { Config } from '@torpor/control-plane/config';
import type { Io } from '../io.ts';
import { setupReport } from '../output/setup-report.ts';
import { hostSettings } from './host-settings.ts';

/** Checks that this machine can run sandboxes, or installs what it lacks. Throws `host_setup`. */
export async function prepareHost(
  io: Io,
  config: Config,
  options: { readonly setup?: boolean },
): Promise<void> {
  // Loaded here, because most commands do not need the server's code.
  const { assertHostReady, requirementsFor, setUpHost } = await import('@torpor/agent/host-setup');
  const requirements = requirementsFor(hostSettings(config));
  if (options.setup) await setUpHost({ report: setupReport(io), requirements });
  else await assertHostReady(requirements);
}
