import type { MessageInitShape } from '@bufbuild/protobuf';
import { type Client, ConnectError, createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { type Envd, startEnvd } from '@torpor/envd';
import { envdProcess } from '@torpor/protocol';
import { afterAll, afterEach, beforeAll } from 'vitest';

export type ProcessClient = Client<typeof envdProcess.Process>;
export type StartInit = MessageInitShape<typeof envdProcess.StartRequestSchema>;

interface StartMore {
  readonly stdin?: boolean;
  readonly tag?: string;
  readonly pty?: MessageInitShape<typeof envdProcess.PTYSchema>;
}

export interface Outcome {
  stdout: string;
  stderr: string;
  pty: string;
  keepalives: number;
  pid: number;
  end: envdProcess.ProcessEvent_EndEvent | undefined;
}

/** Follows a stream to its end, or until `stop` returns true. */
export async function collect(
  stream: AsyncIterable<{ event?: envdProcess.ProcessEvent | undefined }>,
  stop: (soFar: Outcome) => boolean = () => false,
): Promise<Outcome> {
  const outcome: Outcome = {
    stdout: '',
    stderr: '',
    pty: '',
    keepalives: 0,
    pid: 0,
    end: undefined,
  };
  for await (const { event } of stream) {
    switch (event?.event.case) {
      case 'start':
        outcome.pid = event.event.value.pid;
        break;
      case 'data': {
        const { output } = event.event.value;
        if (output.case !== undefined) {
          outcome[output.case] += Buffer.from(output.value).toString('latin1');
        }
        break;
      }
      case 'keepalive':
        outcome.keepalives += 1;
        break;
      case 'end':
        outcome.end = event.event.value;
        break;
    }
    if (stop(outcome)) break;
  }
  return outcome;
}

export const shell = (script: string, more: StartMore = {}): StartInit => ({
  process: { cmd: '/bin/sh', args: ['-c', script] },
  stdin: false,
  ...more,
});

export const byPid = (pid: number) =>
  ({ process: { selector: { case: 'pid', value: pid } } }) as const;
export const byTag = (tag: string) =>
  ({ process: { selector: { case: 'tag', value: tag } } }) as const;
export const stdin = (text: string) =>
  ({ input: { case: 'stdin', value: Buffer.from(text) } }) as const;

export async function failureOf(promise: Promise<unknown>): Promise<ConnectError> {
  return ConnectError.from(
    await promise.then(
      () => new Error('it did not fail'),
      (error: unknown) => error,
    ),
  );
}

/** A daemon on this machine, and clients of its Process service. */
export class ProcessDaemon {
  #envd: Envd | undefined;

  /** Starts one for the tests of the file that calls it; each test's processes are killed. */
  static forAllTests(): ProcessDaemon {
    const daemon = new ProcessDaemon();
    beforeAll(async () => {
      daemon.#envd = await startEnvd({ port: 0 });
    });
    afterEach(() => daemon.#killAll());
    afterAll(() => daemon.#envd?.close());
    return daemon;
  }

  get baseUrl(): string {
    if (this.#envd === undefined) throw new Error('No test runs: the daemon is not started.');
    return `http://127.0.0.1:${this.#envd.port}`;
  }

  client(useBinaryFormat = true): ProcessClient {
    const transport = { baseUrl: this.baseUrl, httpVersion: '1.1', useBinaryFormat } as const;
    return createClient(envdProcess.Process, createConnectTransport(transport));
  }

  async #killAll(): Promise<void> {
    const client = this.client();
    const { processes } = await client.list({});
    await Promise.all(
      processes.map(({ pid }) =>
        client
          .sendSignal({ ...byPid(pid), signal: envdProcess.Signal.SIGKILL })
          .catch(() => undefined),
      ),
    );
  }
}
