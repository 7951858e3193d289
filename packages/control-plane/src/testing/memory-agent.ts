/**
 * A host agent without virtual machines, for tests of the control plane: sandboxes
 * are records in memory, their programs are processes of this machine, their files
 * lie in a temporary directory. It answers with the errors of the real one.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, open, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import {
  ConnectError,
  type ConnectRouter,
  createRouterTransport,
  type Transport,
} from '@connectrpc/connect';
import { hostAgent, type SandboxState, TorporError } from '@torpor/protocol';
import { type BuildOwner, MemoryBuilds } from './memory-builds.ts';

type Info = hostAgent.SandboxInfo;
type ExecEvent = hostAgent.ExecStreamResponse['event'];

interface Program {
  readonly child: ChildProcess;
  readonly sandboxId: string;
  readonly tag: string;
  readonly cmd: string;
  readonly args: readonly string[];
}

interface Selectable {
  readonly sandboxId: string;
  readonly selector:
    | { case: 'pid'; value: number }
    | { case: 'tag'; value: string }
    | { case: undefined; value?: undefined };
}

/** A queue that one reader drains; the agent's watchers. */
class Feed<T> {
  readonly #items: T[] = [];
  #wake: () => void = () => undefined;
  #ended = false;

  push(item: T): void {
    this.#items.push(item);
    this.#wake();
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (;;) {
      while (this.#items.length > 0) yield this.#items.shift() as T;
      if (this.#ended) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

export class MemoryAgent implements AsyncDisposable {
  /** Names of the calls that came in, in order. */
  readonly calls: string[] = [];
  readonly requests: hostAgent.CreateSandboxRequest[] = [];
  readonly sandboxes = new Map<string, Info>();
  readonly builds = new MemoryBuilds();
  readonly limits = { memoryMb: 4096, maxVcpus: 4, maxMemoryMb: 2048 };
  readonly root: string;
  readonly #programs = new Map<number, Program>();
  readonly #watchers = new Set<Feed<Info>>();
  /** Awaited by every create, so that a test can hold it. */
  createGate: Promise<void> = Promise.resolve();
  /** Awaited by every destroy. */
  destroyGate: Promise<void> = Promise.resolve();
  /** Makes the next create fail. */
  createError: TorporError | undefined;
  destroyError: TorporError | undefined;
  /** Writes of files whose content did not come to its end. */
  failedWrites = 0;
  /** Breaks off every read of a file after its first chunk. */
  readError: TorporError | undefined;
  /** While set, every call fails with it. */
  down: TorporError | undefined;
  #transport: Transport | undefined;

  private constructor(root: string) {
    this.root = root;
  }

  static async start(): Promise<MemoryAgent> {
    return new MemoryAgent(await mkdtemp(join(tmpdir(), 'torpor-memory-agent-')));
  }

  get transport(): Transport {
    this.#transport ??= createRouterTransport((router) => this.#routes(router));
    return this.#transport;
  }

  /** Calls of this name so far. */
  count(name: string): number {
    return this.calls.filter((call) => call === name).length;
  }

  /** Changes a sandbox as the real agent would, and tells the watchers. */
  report(id: string, status: SandboxState, reason = ''): void {
    const info = this.sandboxes.get(id);
    if (info === undefined) throw new Error(`no sandbox ${id}`);
    info.status = status;
    info.reason = reason;
    if (status === 'stopped') {
      this.sandboxes.delete(id);
      this.builds.forget(id);
    }
    for (const watcher of this.#watchers) watcher.push({ ...info });
  }

  /** Ends every watch stream with an error, and refuses all calls until {@link comeBack}. */
  goAway(): void {
    this.down = new TorporError('host_unavailable', 'The host agent is away.');
    for (const watcher of this.#watchers) watcher.end();
  }

  comeBack(): void {
    this.down = undefined;
  }

  addSandbox(id: string, teamId: string, status: SandboxState = 'running'): Info {
    const info = create(hostAgent.SandboxInfoSchema, {
      sandboxId: id,
      status,
      teamId,
      templateId: 'base',
      vcpus: 1,
      memoryMb: 512,
      diskSizeMb: 1024,
      hostIp: '10.11.0.2',
      createdAtUnix: BigInt(Math.floor(Date.now() / 1000)),
      lastActiveAtUnix: BigInt(Math.floor(Date.now() / 1000)),
    });
    this.sandboxes.set(id, info);
    return info;
  }

  programs(): number[] {
    return [...this.#programs.keys()];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const watcher of this.#watchers) watcher.end();
    for (const { child } of this.#programs.values()) child.kill('SIGKILL');
    await rm(this.root, { recursive: true, force: true });
  }

  /** As the real agent at the end of the time to live of a sandbox with `auto_pause`. */
  autoPause(id: string): Promise<void> {
    return this.builds.autoPause(this.#owner(), id);
  }

  #owner(): BuildOwner {
    return {
      enter: (call) => this.#enter(call),
      require: (id) => this.#require(id),
      report: (id, status, reason) => this.report(id, status, reason),
      addSandbox: (id, teamId, status) => this.addSandbox(id, teamId, status),
    };
  }

  #enter(call: string): void {
    this.calls.push(call);
    if (this.down !== undefined) throw this.down.toConnectError();
  }

  #require(id: string): Info {
    const info = this.sandboxes.get(id);
    if (info === undefined)
      throw new TorporError('not_found', `No sandbox ${id}.`).toConnectError();
    return info;
  }

  #path(id: string, path: string): string {
    return join(this.root, id, path);
  }

  #spawn(request: {
    sandboxId: string;
    cmd: string;
    args: string[];
    envs: Record<string, string>;
    tag?: string;
  }): Promise<Program> {
    this.#require(request.sandboxId);
    return new Promise((resolve, reject) => {
      const child = spawn(request.cmd, request.args, {
        cwd: this.root,
        env: { PATH: process.env.PATH ?? '', ...request.envs },
        stdio: ['pipe', 'pipe', 'pipe'],
      });
      child.stdin?.on('error', () => undefined);
      child.on('error', () => {
        const message = `The program ${request.cmd} does not exist in the sandbox.`;
        reject(new TorporError('program_not_found', message).toConnectError());
      });
      child.on('spawn', () => {
        const { sandboxId, cmd, args, tag = '' } = request;
        const program = { child, sandboxId, tag, cmd, args };
        this.#programs.set(child.pid ?? 0, program);
        child.on('close', () => this.#programs.delete(child.pid ?? 0));
        resolve(program);
      });
    });
  }

  #select({ sandboxId, selector }: Selectable): Program {
    for (const [pid, program] of this.#programs) {
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
      const error = killedBy === null ? '' : `signal: ${killedBy}`;
      feed.push(eventOf({ case: 'end', value: { exitCode: code ?? -1, error } }));
      feed.end();
    });
    signal.addEventListener('abort', () => feed.end());
    for await (const event of feed) yield { event };
  }

  #routes(router: ConnectRouter): void {
    router.service(hostAgent.HostAgentService, {
      ...this.builds.methods(this.#owner()),
      createSandbox: async (request) => {
        this.#enter('createSandbox');
        this.requests.push(request);
        await this.createGate;
        if (this.createError !== undefined) throw this.createError.toConnectError();
        const frozen = request.fromSnapshot ? this.builds.frozen(request.templateId) : undefined;
        const info = this.addSandbox(request.sandboxId, request.teamId);
        const { templateId, vcpus, memoryMb, timeoutSec } = request;
        Object.assign(info, { templateId, vcpus, memoryMb, timeoutSec, ...frozen?.shape });
        if (frozen !== undefined) this.builds.keep(request.sandboxId, frozen.buildId);
        await mkdir(join(this.root, request.sandboxId), { recursive: true });
        this.report(request.sandboxId, 'running');
        return {
          sandboxId: request.sandboxId,
          hostIp: info.hostIp,
          metadata: { vmm: 'memory', envd_version: '0' },
          sandbox: info,
          timings: [{ phase: 'boot', milliseconds: 1.5 }],
        };
      },
      destroySandbox: async ({ sandboxId }) => {
        this.#enter('destroySandbox');
        await this.destroyGate;
        if (this.destroyError !== undefined) throw this.destroyError.toConnectError();
        return this.builds.queue(sandboxId, async () => {
          this.#require(sandboxId);
          for (const program of this.#programs.values()) {
            if (program.sandboxId === sandboxId) program.child.kill('SIGKILL');
          }
          this.report(sandboxId, 'stopped');
          return {};
        });
      },
      getSandbox: ({ sandboxId }) => {
        this.#enter('getSandbox');
        return { sandbox: this.#require(sandboxId) };
      },
      listSandboxes: () => {
        this.#enter('listSandboxes');
        return { sandboxes: [...this.sandboxes.values()] };
      },
      watchSandboxes: async function* (
        this: MemoryAgent,
        _: unknown,
        { signal }: { signal: AbortSignal },
      ) {
        this.#enter('watchSandboxes');
        const feed = new Feed<Info>();
        this.#watchers.add(feed);
        signal.addEventListener('abort', () => feed.end());
        try {
          for (const info of this.sandboxes.values()) {
            yield { event: { case: 'sandbox' as const, value: { ...info } } };
          }
          yield { event: { case: 'synchronised' as const, value: {} } };
          for await (const info of feed) yield { event: { case: 'sandbox' as const, value: info } };
          if (this.down !== undefined) throw this.down.toConnectError();
        } finally {
          this.#watchers.delete(feed);
        }
      }.bind(this),
      pingSandbox: ({ sandboxId }) => {
        this.#enter('pingSandbox');
        this.#require(sandboxId);
        return {};
      },
      readConsole: ({ sandboxId, maxBytes }) => {
        this.#enter('readConsole');
        this.#require(sandboxId);
        return { content: Buffer.from('Linux version 6.12\nready\n').subarray(-maxBytes) };
      },
      describeHost: () => {
        this.#enter('describeHost');
        return {
          arch: 'x86_64',
          cpuCores: 4,
          memoryMb: BigInt(this.limits.memoryMb),
          maxVcpus: this.limits.maxVcpus,
          maxMemoryMb: BigInt(this.limits.maxMemoryMb),
          images: [{ name: 'python' }, { name: 'base' }],
        };
      },

      exec: async (request, { signal }) => {
        this.#enter('exec');
        const { child } = await this.#spawn(request);
        child.stdin?.end();
        signal.addEventListener('abort', () => child.kill('SIGKILL'));
        const timer = setTimeout(() => child.kill('SIGKILL'), request.timeoutSec * 1000 || 2 ** 30);
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
          status: killedBy === null ? '' : `signal: ${killedBy}`,
        };
      },
      execStream: async function* (
        this: MemoryAgent,
        request: hostAgent.ExecStreamRequest,
        { signal }: { signal: AbortSignal },
      ) {
        this.#enter('execStream');
        const program = await this.#spawn(request);
        if (!request.stdin) program.child.stdin?.end();
        yield* this.#events(program, signal);
      }.bind(this),
      startBackground: async (request) => {
        this.#enter('startBackground');
        const { child } = await this.#spawn(request);
        child.stdout?.resume();
        child.stderr?.resume();
        return { pid: child.pid ?? 0, tag: request.tag };
      },
      listProcesses: ({ sandboxId }) => {
        this.#enter('listProcesses');
        this.#require(sandboxId);
        const mine = [...this.#programs].filter(([, program]) => program.sandboxId === sandboxId);
        return {
          processes: mine.map(([pid, { tag, cmd, args }]) => ({ pid, tag, cmd, args: [...args] })),
        };
      },
      killProcess: (request) => {
        this.#enter('killProcess');
        this.#select(request).child.kill(request.signal === 'SIGTERM' ? 'SIGTERM' : 'SIGKILL');
        return {};
      },
      connectProcess: async function* (
        this: MemoryAgent,
        request: hostAgent.ConnectProcessRequest,
        { signal }: { signal: AbortSignal },
      ) {
        this.#enter('connectProcess');
        yield* this.#events(this.#select(request), signal);
      }.bind(this),
      sendProcessInput: async (request) => {
        this.#enter('sendProcessInput');
        const { stdin } = this.#select(request).child;
        stdin?.write(request.data);
        if (request.end) stdin?.end();
        return {};
      },

      ptyAttach: async function* (
        this: MemoryAgent,
        request: hostAgent.PtyAttachRequest,
        { signal }: { signal: AbortSignal },
      ) {
        this.#enter('ptyAttach');
        const { sandboxId, tag } = request;
        const program =
          request.cmd === ''
            ? this.#select({ sandboxId, selector: { case: 'tag', value: tag } })
            : await this.#spawn(request);
        for await (const { event } of this.#events(program, signal)) {
          if (event.case === 'start') {
            yield { event: { case: 'started' as const, value: { pid: event.value.pid, tag } } };
          } else if (event.case === 'data') {
            const data = event.value.output.value ?? new Uint8Array();
            yield { event: { case: 'output' as const, value: { data } } };
          } else if (event.case === 'end') {
            const { exitCode, error } = event.value;
            yield { event: { case: 'exited' as const, value: { exitCode, error } } };
          }
        }
      }.bind(this),
      ptySendInput: ({ sandboxId, tag, data }) => {
        this.#enter('ptySendInput');
        this.#select({ sandboxId, selector: { case: 'tag', value: tag } }).child.stdin?.write(data);
        return {};
      },
      ptyResize: ({ cols, rows }) => {
        this.#enter(`ptyResize ${cols}x${rows}`);
        return {};
      },
      ptyKill: ({ sandboxId, tag }) => {
        this.#enter('ptyKill');
        this.#select({ sandboxId, selector: { case: 'tag', value: tag } }).child.kill('SIGKILL');
        return {};
      },

      writeFileStream: async (messages) => {
        this.#enter('writeFileStream');
        let file: Awaited<ReturnType<typeof open>> | undefined;
        try {
          for await (const { content } of messages) {
            if (content.case === 'meta') {
              this.#require(content.value.sandboxId);
              file = await open(this.#path(content.value.sandboxId, content.value.path), 'w');
            } else if (content.case === 'chunk') await file?.write(content.value);
          }
        } catch (error) {
          this.failedWrites++;
          throw error;
        } finally {
          await file?.close();
        }
        return {};
      },
      readFileStream: async function* (
        this: MemoryAgent,
        request: hostAgent.ReadFileStreamRequest,
      ) {
        this.#enter('readFileStream');
        try {
          const stream = createReadStream(this.#path(request.sandboxId, request.path));
          for await (const chunk of stream) {
            yield { chunk: chunk as Buffer };
            if (this.readError !== undefined) throw this.readError.toConnectError();
          }
        } catch (reason) {
          if (reason instanceof ConnectError) throw reason;
          throw new TorporError('not_found', `There is no file ${request.path}.`).toConnectError();
        }
      }.bind(this),
      listDir: async ({ sandboxId, path }) => {
        this.#enter('listDir');
        const names = await readdir(this.#path(sandboxId, path)).catch((error) => {
          const code = error.code === 'ENOTDIR' ? 'invalid_request' : 'not_found';
          throw new TorporError(code, `There is no directory ${path}.`).toConnectError();
        });
        return {
          entries: await Promise.all(names.map((name) => this.#entry(sandboxId, join(path, name)))),
        };
      },
      makeDir: async ({ sandboxId, path }) => {
        this.#enter('makeDir');
        await mkdir(this.#path(sandboxId, path)).catch(() => {
          throw new TorporError('already_exists', `${path} exists.`).toConnectError();
        });
        return { entry: await this.#entry(sandboxId, path) };
      },
      removePath: async ({ sandboxId, path }) => {
        this.#enter('removePath');
        await rm(this.#path(sandboxId, path), { recursive: true });
        return {};
      },
    });
  }

  async #entry(sandboxId: string, path: string) {
    const found = await stat(this.#path(sandboxId, path));
    return create(hostAgent.FileEntrySchema, {
      name: basename(path),
      path,
      type: found.isDirectory() ? 'directory' : 'file',
      size: BigInt(found.size),
      mode: found.mode & 0o7777,
      permissions: found.isDirectory() ? 'drwxr-xr-x' : '-rw-r--r--',
      owner: 'user',
      group: 'user',
      modifiedAt: BigInt(Math.floor(found.mtimeMs / 1000)),
    });
  }
}

function eventOf(event: ExecEventInit): ExecEvent {
  return create(hostAgent.ExecStreamResponseSchema, { event }).event;
}

type ExecEventInit = NonNullable<
  Parameters<typeof create<typeof hostAgent.ExecStreamResponseSchema>>[1]
>['event'] &
  object;

function collect(stream: NodeJS.ReadableStream | null, limit: number) {
  const chunks: Buffer[] = [];
  stream?.on('data', (chunk: Buffer) => chunks.push(chunk));
  return () => {
    const all = Buffer.concat(chunks);
    return { bytes: all.subarray(0, limit), dropped: BigInt(Math.max(all.length - limit, 0)) };
  };
}
