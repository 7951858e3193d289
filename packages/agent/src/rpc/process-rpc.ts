import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import { hostAgent, TorporError } from '@torpor/protocol';
import { DEFAULT_MAX_OUTPUT_BYTES, type ExecResult, exec, execStream } from '../guest/exec.ts';
import {
  connectProgram,
  type ProcessEvent,
  type ProcessSelector,
  type ProgramRequest,
  programEnd,
} from '../guest/process-events.ts';
import {
  killProcess,
  listProcesses,
  sendInput,
  startBackground,
  streamInput,
} from '../guest/processes.ts';
import type { SandboxRegistry } from '../registry/registry.ts';

type Methods = Pick<
  ServiceImpl<typeof hostAgent.HostAgentService>,
  | 'exec'
  | 'execStream'
  | 'startBackground'
  | 'listProcesses'
  | 'killProcess'
  | 'connectProcess'
  | 'sendProcessInput'
  | 'streamProcessInput'
>;

const MAX_TIMEOUT_SEC = 7 * 24 * 3600;

/** The calls about programs in a guest. */
export function processRpc(registry: SandboxRegistry): Methods {
  return {
    /**
     * A program whose time is up ends the call with the code `timeout`; what it had
     * printed until then is attached to the error as an ExecResponse.
     */
    async exec(request, { signal }) {
      const { guest, hold } = await registry.use(request.sandboxId);
      using _ = hold;
      const timeoutMs = timeoutOf(request.timeoutSec);
      const result = await exec(
        guest,
        { ...programOf(request), signal },
        { timeoutMs, maxOutputBytes: outputLimit(request.maxOutputBytes) },
      );
      if (result.timedOut) throw timeoutError(result, request.timeoutSec);
      return execResponse(result);
    },

    async *execStream(request, { signal }) {
      const { guest, hold } = await registry.use(request.sandboxId);
      using _ = hold;
      const program = { ...programOf(request), stdin: request.stdin, tag: request.tag, signal };
      for await (const event of execStream(guest, program, timeoutOf(request.timeoutSec))) {
        const message = streamMessage(event);
        if (message !== undefined) yield message;
      }
    },

    async startBackground(request, { signal }) {
      const { guest, hold } = await registry.use(request.sandboxId);
      using _ = hold;
      return startBackground(guest, { ...programOf(request), tag: request.tag, signal });
    },

    async listProcesses({ sandboxId, includeExited }, { signal }) {
      const { guest, hold } = await registry.use(sandboxId);
      using _ = hold;
      const processes = await listProcesses(guest, { includeExited, signal });
      return { processes: processes.map((entry) => ({ ...entry, args: [...entry.args] })) };
    },

    async killProcess({ sandboxId, selector, signal: name }, { signal }) {
      const { guest, hold } = await registry.use(sandboxId);
      using _ = hold;
      await killProcess(guest, selected(selector), name, { signal });
      return {};
    },

    async *connectProcess({ sandboxId, selector }, context: HandlerContext) {
      const { guest, hold } = await registry.use(sandboxId);
      using _ = hold;
      const events = connectProgram(guest, selected(selector), { signal: context.signal });
      for await (const event of events) {
        const message = streamMessage(event);
        if (message !== undefined) yield message;
      }
    },

    async sendProcessInput({ sandboxId, selector, data, end }, { signal }) {
      const { guest, hold } = await registry.use(sandboxId);
      using _ = hold;
      await sendInput(guest, selected(selector), { data, end }, { signal });
      return {};
    },

    async streamProcessInput(messages, { signal }) {
      const iterator = messages[Symbol.asyncIterator]();
      const first = await iterator.next();
      const content = first.done ? undefined : first.value.content;
      if (content?.case !== 'start') {
        throw new TorporError(
          'invalid_request',
          'The first message must say which process is meant.',
        );
      }
      const { sandboxId, selector } = content.value;
      const { guest, hold } = await registry.use(sandboxId);
      using _ = hold;
      await streamInput(guest, selected(selector), inputPieces(iterator), { signal });
      return {};
    },
  };
}

/** What follows the first message. */
async function* inputPieces(
  messages: AsyncIterator<hostAgent.StreamProcessInputRequest>,
): AsyncGenerator<Uint8Array | 'close', void> {
  for (;;) {
    const next = await messages.next();
    if (next.done) return;
    const { content } = next.value;
    if (content.case === 'data') yield content.value;
    else if (content.case === 'close') return yield 'close';
    else throw new TorporError('invalid_request', 'After the first message only input may follow.');
  }
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

function selected(
  selector: ProcessSelector | { readonly case: undefined; readonly value?: undefined },
): ProcessSelector {
  if (selector.case !== undefined) return selector;
  throw new TorporError('invalid_request', 'Say which process is meant: by its pid or its tag.');
}

function timeoutOf(seconds: number): number {
  if (seconds >= 0 && seconds <= MAX_TIMEOUT_SEC) return seconds * 1000;
  throw new TorporError(
    'invalid_request',
    `The time limit is ${seconds} s; it must be between 0 (no limit) and ${MAX_TIMEOUT_SEC} s.`,
  );
}

function outputLimit(bytes: bigint): number {
  if (bytes === 0n || bytes > BigInt(DEFAULT_MAX_OUTPUT_BYTES)) return DEFAULT_MAX_OUTPUT_BYTES;
  return Number(bytes);
}

function execResponse(result: ExecResult): MessageInitShape<typeof hostAgent.ExecResponseSchema> {
  const { stdout, stderr, exitCode, status, stdoutDroppedBytes, stderrDroppedBytes } = result;
  return { stdout, stderr, exitCode, status, stdoutDroppedBytes, stderrDroppedBytes };
}

function timeoutError(result: ExecResult, timeoutSec: number) {
  const error = new TorporError(
    'timeout',
    `The program did not end within ${timeoutSec} s; its process group was killed.`,
    { remedy: 'Give it more time, or start it in the background.' },
  ).toConnectError();
  error.details.push({
    desc: hostAgent.ExecResponseSchema,
    value: create(hostAgent.ExecResponseSchema, execResponse(result)),
  });
  return error;
}

function streamMessage(
  event: ProcessEvent,
): MessageInitShape<typeof hostAgent.ExecStreamResponseSchema> | undefined {
  switch (event.case) {
    case 'start':
      return { event: { case: 'start', value: { pid: event.value.pid } } };
    case 'data':
      return { event: { case: 'data', value: { output: event.value.output } } };
    case 'keepalive':
      return { event: { case: 'keepalive', value: {} } };
    case 'end':
      return { event: { case: 'end', value: programEnd(event.value) } };
    case undefined:
      return undefined;
  }
}
