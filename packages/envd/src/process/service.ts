import type { MessageInitShape } from '@bufbuild/protobuf';
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from '@connectrpc/connect';
import { type envdProcess, TorporError } from '@torpor/protocol';
import type { EnvdContext } from '../context.ts';
import { keepaliveMs } from '../http/keepalive.ts';
import type { ProcessExit } from '../process-exit.ts';
import type { GuestProcess } from './guest-process.ts';
import type { OutputEvent, OutputSubscription } from './output-hub.ts';
import type { ListedProcess, ProcessTable, Selector } from './process-table.ts';
import { terminalSize } from './terminal-size.ts';

type ProcessEventSchema = typeof envdProcess.ProcessEventSchema;
type ProcessImpl = ServiceImpl<typeof envdProcess.Process>;

/** SIGRTMAX. */
const MAX_SIGNAL = 64;

/** The Process service of E2B's envd; process.proto. */
export function processService(context: EnvdContext, table: ProcessTable): ProcessImpl {
  return {
    list: ({ includeExited }) => ({
      processes: [...(includeExited ? table.exited() : []), ...table.running()].map(processInfo),
    }),

    async *start(request, call) {
      const process = await startProcess(context, table, request, call);
      killAtDeadline(process, call);
      using subscription = process.output.subscribe();
      call.signal.addEventListener('abort', () => subscription.close());
      yield* follow(process, subscription, call);
    },

    async *connect(request, call) {
      const process = table.findOrExited(selectorOf(request.process));
      using subscription = process.output.subscribe();
      call.signal.addEventListener('abort', () => subscription.close());
      yield* follow(process, subscription, call);
    },

    update(request) {
      const process = table.find(selectorOf(request.process));
      if (request.pty !== undefined) {
        process.resize(terminalSize(request.pty.size));
      }
      return {};
    },

    async streamInput(requests, call) {
      let process: GuestProcess | undefined;
      for await (const { event } of requests) {
        if (event.case === 'start') {
          process = table.find(selectorOf(event.value.process));
        } else if (event.case === 'data') {
          if (process === undefined) {
            throw new ConnectError('the first message must select a process', Code.InvalidArgument);
          }
          await writeInput(process, event.value.input, call.signal);
        }
      }
      return {};
    },

    async sendInput(request, call) {
      const process = table.find(selectorOf(request.process));
      await writeInput(process, request.input, call.signal);
      return {};
    },

    sendSignal(request) {
      const process = table.find(selectorOf(request.process));
      if (request.signal < 1 || request.signal > MAX_SIGNAL) {
        throw new ConnectError(
          `signal ${request.signal} is not 1 to ${MAX_SIGNAL}`,
          Code.InvalidArgument,
        );
      }
      process.signal(request.signal);
      return {};
    },

    async closeStdin(request) {
      await table.find(selectorOf(request.process)).closeInput();
      return {};
    },
  };
}

async function startProcess(
  context: EnvdContext,
  table: ProcessTable,
  request: envdProcess.StartRequest,
  call: HandlerContext,
): Promise<GuestProcess> {
  const config = request.process;
  if (config === undefined) {
    throw new ConnectError('process is missing', Code.InvalidArgument);
  }
  const user = context.userOfCall(call.requestHeader);
  try {
    return await table.start({
      user,
      description: {
        cmd: config.cmd,
        args: config.args,
        envs: config.envs,
        cwd: config.cwd,
        tag: request.tag,
        detached: request.detached,
      },
      terminal: request.pty === undefined ? undefined : terminalSize(request.pty.size),
      stdin: request.stdin ?? true,
    });
  } catch (error) {
    throw error instanceof TorporError ? error.toConnectError() : error;
  }
}

/**
 * A client that disconnects this shortly before its deadline does so because of it: its clock
 * was started earlier than ours, on a busy machine by a second or more.
 */
const DEADLINE_SKEW_MS = 2000;

/**
 * Kills the process when the deadline of the request that started it passes while the request
 * is being handled. A client that disconnects earlier does not stop its process.
 */
function killAtDeadline(process: GuestProcess, call: HandlerContext): void {
  const timeoutMs = call.timeoutMs();
  if (timeoutMs === undefined) return;
  // Monotonic, because /init changes the time of day when the guest is restored.
  const deadlineMs = performance.now() + timeoutMs;
  call.signal.addEventListener('abort', () => {
    if (deadlineMs - performance.now() <= DEADLINE_SKEW_MS) process.signal('SIGKILL');
  });
}

/** The response messages of `Start` and `Connect`. */
type EventMessage = { event: MessageInitShape<ProcessEventSchema> };

async function* follow(
  process: GuestProcess,
  subscription: OutputSubscription,
  call: HandlerContext,
): AsyncGenerator<EventMessage> {
  const idleMs = keepaliveMs(call.requestHeader);
  yield { event: { event: { case: 'start', value: { pid: process.pid } } } };
  for (;;) {
    const event = await subscription.next(idleMs);
    if (event === 'closed') {
      throw call.signal.reason ?? new ConnectError('the client disconnected', Code.Canceled);
    }
    if (event === 'idle') {
      yield { event: { event: { case: 'keepalive', value: {} } } };
      continue;
    }
    yield { event: wireEvent(event) };
    if (event.type === 'end') return;
  }
}

function wireEvent(event: OutputEvent): MessageInitShape<ProcessEventSchema> {
  if (event.type === 'data') {
    const { kind, bytes } = event.chunk;
    return {
      event: {
        case: 'data',
        value: { output: { case: kind, value: bytes } },
      },
    };
  }
  return { event: { case: 'end', value: wireEnd(event.end) } };
}

function wireEnd({ exitCode, exited, status, error }: ProcessExit) {
  return { exitCode, exited, status, ...(error === undefined ? {} : { error }) };
}

/** As `List` shows a process. */
function processInfo({ pid, description, end }: ListedProcess) {
  const { cmd, args, envs, cwd, tag } = description;
  return {
    pid,
    config: { cmd, args: [...args], envs: { ...envs }, ...(cwd === undefined ? {} : { cwd }) },
    ...(tag === undefined ? {} : { tag }),
    ...(end === undefined ? {} : { end: wireEnd(end) }),
  };
}

function selectorOf(selector: envdProcess.ProcessSelector | undefined): Selector {
  switch (selector?.selector.case) {
    case 'pid':
      return { pid: selector.selector.value };
    case 'tag':
      return { tag: selector.selector.value };
    default:
      throw new ConnectError('select a process by pid or tag', Code.InvalidArgument);
  }
}

async function writeInput(
  process: GuestProcess,
  input: envdProcess.ProcessInput | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (input?.input.case === undefined) {
    throw new ConnectError('the input is missing', Code.InvalidArgument);
  }
  await process.writeInput(input.input.case, input.input.value, signal);
}
