import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { hostAgent, TorporError } from '@torpor/protocol';
import { DEFAULT_MAX_OUTPUT_BYTES, type ExecResult, exec, execStream } from '../guest/exec.ts';
import type { ProgramRequest } from '../guest/process-events.ts';
import { startBackground } from '../guest/processes.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import { streamMessage } from './stream-message.ts';

type Methods = Pick<
  ServiceImpl<typeof hostAgent.HostAgentService>,
  'exec' | 'execStream' | 'startBackground'
>;

const MAX_TIMEOUT_SEC = 7 * 24 * 3600;

/** The calls that run programs in a guest. */
export function execRpc(registry: SandboxRegistry): Methods {
  return {
    /**
     * At the time limit of the program the call fails with the code `timeout`; the output until
     * then is attached to the error as an ExecResponse.
     */
    async exec(request, { signal }) {
      using lease = await registry.use(request.sandboxId);
      const { guest } = lease;
      const timeoutMs = timeoutOf(request.timeoutSec);
      const result = await exec(
        guest,
        { ...programOf(request), signal },
        { timeoutMs, maxOutputBytes: outputLimit(request.maxOutputBytes) },
      );
      if (result.timedOut) throw timeoutError(result, request.timeoutSec ?? 0);
      return execResponse(result);
    },

    async *execStream(request, { signal }) {
      using lease = await registry.use(request.sandboxId);
      const { guest } = lease;
      const program = { ...programOf(request), stdin: request.stdin, tag: request.tag, signal };
      for await (const event of execStream(guest, program, timeoutOf(request.timeoutSec))) {
        const message = streamMessage(event);
        if (message !== undefined) yield message;
      }
    },

    async startBackground(request, { signal }) {
      using lease = await registry.use(request.sandboxId);
      const { guest } = lease;
      return startBackground(guest, { ...programOf(request), tag: request.tag, signal });
    },
  };
}

function programOf(
  request: Pick<
    hostAgent.ExecRequest | hostAgent.StartBackgroundRequest,
    'cmd' | 'args' | 'envs' | 'cwd' | 'user'
  >,
): ProgramRequest {
  const { cmd, args, envs, cwd, user } = request;
  return { cmd, args, envs, cwd, user };
}

/** Undefined if there is no limit. Throws `invalid_request`. */
function timeoutOf(seconds: number | undefined): number | undefined {
  if (seconds === undefined) return undefined;
  if (seconds >= 1 && seconds <= MAX_TIMEOUT_SEC) return seconds * 1000;
  throw new TorporError(
    'invalid_request',
    `The time limit is ${seconds} s; it must be between 1 and ${MAX_TIMEOUT_SEC} s.`,
  );
}

function outputLimit(bytes: bigint | undefined): number {
  if (bytes === undefined || bytes > BigInt(DEFAULT_MAX_OUTPUT_BYTES))
    return DEFAULT_MAX_OUTPUT_BYTES;
  return Number(bytes);
}

function execResponse(result: ExecResult): MessageInitShape<typeof hostAgent.ExecResponseSchema> {
  const { stdout, stderr, exitCode, status, stdoutDroppedBytes, stderrDroppedBytes } = result;
  const dropped = { stdoutDroppedBytes, stderrDroppedBytes };
  return { stdout, stderr, exitCode, ...dropped, ...(status === undefined ? {} : { status }) };
}

function timeoutError(result: ExecResult, timeoutSec: number) {
  const error = new TorporError(
    'timeout',
    `The program did not exit within ${timeoutSec} s; its process group was killed.`,
    { remedy: 'Give it more time, or start it in the background.' },
  ).toConnectError();
  error.details.push({
    desc: hostAgent.ExecResponseSchema,
    value: create(hostAgent.ExecResponseSchema, execResponse(result)),
  });
  return error;
}
