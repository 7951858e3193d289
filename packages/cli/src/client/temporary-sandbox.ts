import type { CreateSandboxOptions, Sandbox, Torpor } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import { exitCodeOfSignal } from '../exit-codes.ts';
import type { Io } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import type { TerminationSignal } from '../termination-signals.ts';

/**
 * Creates a sandbox, uses it, and destroys it in any case. An interrupt during the
 * create does not abort the request, because the server would finish it and the
 * sandbox's id would be lost: it waits for the sandbox, and destroys it.
 */
export async function withTemporarySandbox(
  io: Io,
  torpor: Torpor,
  options: CreateSandboxOptions,
  use: (sandbox: Sandbox) => Promise<number>,
): Promise<number> {
  let interrupted: TerminationSignal | undefined;
  const unsubscribe = io.onSignal((signal) => {
    if (interrupted === undefined) printStatus(io, 'interrupted; destroying the sandbox');
    interrupted ??= signal;
  });
  try {
    const sandbox = await torpor.sandboxes.create(options);
    try {
      return interrupted === undefined ? await use(sandbox) : exitCodeOfSignal(interrupted);
    } finally {
      await destroy(io, sandbox);
    }
  } finally {
    unsubscribe();
  }
}

/** Reports a sandbox that cannot be destroyed, without changing the exit status of the program. */
async function destroy(io: Io, sandbox: Sandbox): Promise<void> {
  try {
    await sandbox.destroy();
  } catch (reason) {
    const error = TorporError.from(reason);
    if (error.code === 'not_found') return;
    printStatus(io, `could not destroy sandbox ${sandbox.id}: ${error.message}`);
    printStatus(io, `destroy it with \`torpor rm ${sandbox.id}\``);
  }
}
