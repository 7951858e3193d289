/**
 * The programs and terminals of the memory agent: processes on this machine. A terminal is a
 * program whose output is not split into two streams.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { create } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { hostAgent, signalNumber, TorporError } from '@torpor/protocol';
import { Feed } from './feed.ts';
import type { GuestOwner } from './memory-files.ts';

type ExecEvent = hostAgent.ExecStreamResponse['event'];
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
  | 'ptyAttach'
  | 'ptySendInput'
  | 'ptyResize'
  | 'ptyKill'
>;

interface Program {
  readonly child: ChildProcess;
  readonly sandboxId: string;
  readonly tag: string | undefined;
  readonly cmd: string;
  readonly args: readonly string[];
}

interface Spawnable {
  readonly sandboxId: string;
  readonly cmd: string;
  readonly args: string[];
  readonly envs: Record<string, string>;
  readonly tag?: string | undefined;
}

interface Selectable {
  readonly sandboxId: string;
  readonly selector:
    | { case: 'pid'; value: number }
    | { case: 'tag'; value: string }
    | { case: undefined; value?: undefined };
}

/** The Node of the agent drive. */
const GUEST_NODE = '/.torpor/bin/node';

export class MemoryPrograms {
  /** Contains a directory for each sandbox, in which its programs run. */
  readonly #root: string;
  readonly #running = new Map<number, Program>();

  constructor(root: string) {
    this.#root = root;
  }

  /** Pids of the running programs. */
  get pids(): number[] {
    return [...this.#running.keys()];
  }

  /** Kills the programs of a sandbox, or all. */
  killAll(sandboxId?: string): void {
    for (const program of this.#running.values()) {
      if (sandboxId === undefined || program.sandboxId === sandboxId) program.child.kill('SIGKILL');
    }
  }

  methods(owner: GuestOwner): Methods {
    return {
      ...this.#startMethods(owner),
      ...this.#processMethods(owner),
      ...this.#ptyMethods(owner),
    };
  }

  #startMethods(owner: GuestOwner): Pick<Methods, 'exec' | 'execStream' | 'startBackground'> {
    return {
      exec: async (request, { signal }) => {
        owner.enter('exec');
        const { child } = await this.#spawn(owner, request);
        child.stdin?.end();
        signal.addEventListener('abort', () => child.kill('SIGKILL'));
        const timer = setTimeout(
          () => child.kill('SIGKILL'),
          request.timeoutSec === undefined ? 2 ** 30 : request.timeoutSec * 1000,
        );
        const limit = Number(request.maxOutputBytes);
        const stdout = collect(child.stdout, limit);
        const stderr = collect(child.stderr, limit);
        const [code, killedBy] = (await once(child, 'close')) as [number | null, string | null];
        clearTimeout(timer);
        const [out, err] = [stdout(), stderr()];
        return {
          stdout: out.bytes,
          stderr: err.bytes,
          stdoutDroppedBytes: out.dropped,
          stderrDroppedBytes: err.dropped,
          exitCode: code ?? -1,
          ...(killedBy === null ? {} : { status: `signal: ${killedBy}` }),
        };
      },
      execStream: async function* (
        this: MemoryPrograms,
        request: hostAgent.ExecStreamRequest,
        { signal }: { signal: AbortSignal },
      ) {
        owner.enter('execStream');
        const program = await this.#spawn(owner, request);
        if (!request.stdin) program.child.stdin?.end();
        let isExpired = false;
        const expire = () => {
          isExpired = true;
          program.child.kill('SIGKILL');
        };
        const timer = setTimeout(expire, (request.timeoutSec ?? 0) * 1000 || 2 ** 30);
        try {
          for await (const response of this.#events(program, signal)) {
            if (isExpired && response.event.case === 'end') throw timeoutError();
            yield response;
          }
        } finally {
          clearTimeout(timer);
        }
      }.bind(this),
      startBackground: async (request) => {
        owner.enter('startBackground');
        const { child } = await this.#spawn(owner, request);
        child.stdout?.resume();
        child.stderr?.resume();
        return { pid: child.pid ?? 0, tag: request.tag ?? '' };
      },
    };
  }

  #processMethods(
    owner: GuestOwner,
  ): Pick<
    Methods,
    'listProcesses' | 'killProcess' | 'connectProcess' | 'sendProcessInput' | 'streamProcessInput'
  > {
    return {
      listProcesses: ({ sandboxId }) => {
        owner.enter('listProcesses');
        owner.require(sandboxId);
        const mine = [...this.#running].filter(([, program]) => program.sandboxId === sandboxId);
        return {
          processes: mine.map(([pid, { tag, cmd, args }]) => ({
            pid,
            ...(tag === undefined ? {} : { tag }),
            cmd,
            args: [...args],
          })),
        };
      },
      killProcess: (request) => {
        owner.enter('killProcess');
        this.#select(request).child.kill(signalNumber(request.signal ?? 'SIGKILL'));
        return {};
      },
      connectProcess: async function* (
        this: MemoryPrograms,
        request: hostAgent.ConnectProcessRequest,
        { signal }: { signal: AbortSignal },
      ) {
        owner.enter('connectProcess');
        yield* this.#events(this.#select(request), signal);
      }.bind(this),
      sendProcessInput: async (request) => {
        owner.enter('sendProcessInput');
        const { stdin } = this.#select(request).child;
        stdin?.write(request.data);
        if (request.end) stdin?.end();
        return {};
      },
      streamProcessInput: async (messages) => {
        owner.enter('streamProcessInput');
        let program: Program | undefined;
        for await (const { content } of messages) {
          if (content.case === 'start') program = this.#select({ ...content.value });
          else if (content.case === 'data') await write(program?.child.stdin, content.value);
          else program?.child.stdin?.end();
        }
        return {};
      },
    };
  }

  #ptyMethods(
    owner: GuestOwner,
  ): Pick<Methods, 'ptyAttach' | 'ptySendInput' | 'ptyResize' | 'ptyKill'> {
    return {
      ptyAttach: async function* (
        this: MemoryPrograms,
        request: hostAgent.PtyAttachRequest,
        { signal }: { signal: AbortSignal },
      ) {
        owner.enter('ptyAttach');
        const { sandboxId, tag = '', cmd } = request;
        const program =
          cmd === undefined
            ? this.#select({ sandboxId, selector: { case: 'tag', value: tag } })
            : await this.#spawn(owner, { ...request, cmd });
        for await (const { event } of this.#events(program, signal)) {
          if (event.case === 'start') {
            yield { event: { case: 'started' as const, value: { pid: event.value.pid, tag } } };
          } else if (event.case === 'data') {
            const data = event.value.output.value ?? new Uint8Array();
            yield { event: { case: 'output' as const, value: { data } } };
          } else if (event.case === 'end') {
            const { exitCode, error } = event.value;
            const value = { exitCode, ...(error === undefined ? {} : { error }) };
            yield { event: { case: 'exited' as const, value } };
          }
        }
      }.bind(this),
      ptySendInput: ({ sandboxId, tag, data }) => {
        owner.enter('ptySendInput');
        this.#select({ sandboxId, selector: { case: 'tag', value: tag } }).child.stdin?.write(data);
        return {};
      },
      ptyResize: ({ cols, rows }) => {
        owner.enter(`ptyResize ${cols}x${rows}`);
        return {};
      },
      ptyKill: ({ sandboxId, tag }) => {
        owner.enter('ptyKill');
        this.#select({ sandboxId, selector: { case: 'tag', value: tag } }).child.kill('SIGKILL');
        return {};
      },
    };
  }

  #spawn(owner: GuestOwner, request: Spawnable): Promise<Program> {
    owner.require(request.sandboxId);
    return new Promise((resolve, reject) => {
      const child = spawn(
        request.cmd === GUEST_NODE ? process.execPath : request.cmd,
        request.args,
        {
          cwd: join(this.#root, request.sandboxId),
          env: { PATH: process.env.PATH ?? '', ...request.envs },
          stdio: ['pipe', 'pipe', 'pipe'],
        },
      );
      child.stdin?.on('error', () => undefined);
      child.on('error', () => {
        const message = `The program ${request.cmd} does not exist in the sandbox.`;
        reject(new TorporError('program_not_found', message).toConnectError());
      });
      child.on('spawn', () => {
        const { sandboxId, cmd, args, tag } = request;
        const program = { child, sandboxId, tag, cmd, args };
        this.#running.set(child.pid ?? 0, program);
        child.on('close', () => this.#running.delete(child.pid ?? 0));
        resolve(program);
      });
    });
  }

  #select({ sandboxId, selector }: Selectable): Program {
    for (const [pid, program] of this.#running) {
      if (program.sandboxId !== sandboxId) continue;
      if (selector.case === 'pid' ? selector.value === pid : selector.value === program.tag) {
        return program;
      }
    }
    throw new TorporError('not_found', `No process ${selector.value}.`).toConnectError();
  }

  async *#events(program: Program, signal: AbortSignal) {
    const feed = new Feed<ExecEvent>();
    const { child } = program;
    feed.push(eventOf({ case: 'start', value: { pid: child.pid ?? 0 } }));
    child.stdout?.on('data', (value: Buffer) =>
      feed.push(eventOf({ case: 'data', value: { output: { case: 'stdout', value } } })),
    );
    child.stderr?.on('data', (value: Buffer) =>
      feed.push(eventOf({ case: 'data', value: { output: { case: 'stderr', value } } })),
    );
    child.on('close', (code, killedBy) => {
      const error = killedBy === null ? {} : { error: `signal: ${killedBy}` };
      feed.push(eventOf({ case: 'end', value: { exitCode: code ?? -1, ...error } }));
      feed.end();
    });
    signal.addEventListener('abort', () => feed.end());
    for await (const event of feed) yield { event };
  }
}

function timeoutError() {
  return new TorporError('timeout', 'The program did not exit in time.').toConnectError();
}

function eventOf(event: ExecEventInit): ExecEvent {
  return create(hostAgent.ExecStreamResponseSchema, { event }).event;
}

type ExecEventInit = NonNullable<
  Parameters<typeof create<typeof hostAgent.ExecStreamResponseSchema>>[1]
>['event'] &
  object;

/** Resolves when the program has read the bytes, or no longer reads. */
function write(stdin: Writable | null | undefined, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    if (stdin?.write(bytes, () => resolve()) === undefined) resolve();
  });
}

function collect(stream: NodeJS.ReadableStream | null, limit: number) {
  const chunks: Buffer[] = [];
  stream?.on('data', (chunk: Buffer) => chunks.push(chunk));
  return () => {
    const all = Buffer.concat(chunks);
    return { bytes: all.subarray(0, limit), dropped: BigInt(Math.max(all.length - limit, 0)) };
  };
}
