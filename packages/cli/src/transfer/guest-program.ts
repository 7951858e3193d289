import { type FileTreeRequest, guestProgram } from '@torpor/agent/file-tree';
import type { ExecSession, Sandbox } from '@torpor/sdk';

/** Starts the program in the sandbox as a user. Its standard input is the program's from then on. */
export async function startFileTreeProgram(
  sandbox: Sandbox,
  request: FileTreeRequest,
  user: string | undefined,
): Promise<ExecSession> {
  const { command, args, input } = await guestProgram(request);
  // The sandbox's own NODE_OPTIONS are not meant for this program.
  const envs = { NODE_OPTIONS: '' };
  const session = await sandbox.execStream(command, args, {
    stdin: true,
    binary: true,
    user,
    envs,
  });
  try {
    await session.write(input);
    return session;
  } catch (error) {
    await session[Symbol.asyncDispose]();
    throw error;
  }
}
