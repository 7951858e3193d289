/** The files of the memory agent: they are in a directory on this machine. */
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { ConnectError, type ServiceImpl } from '@connectrpc/connect';
import { hostAgent, TorporError } from '@torpor/protocol';

type Methods = Pick<
  ServiceImpl<typeof hostAgent.HostAgentService>,
  'writeFileStream' | 'readFileStream' | 'listDir' | 'makeDir' | 'removePath'
>;

/** The parts of the agent that the guests use. */
export interface GuestOwner {
  enter(call: string): void;
  /** Throws `not_found`. */
  require(id: string): hostAgent.SandboxInfo;
}

export class MemoryFiles {
  /** The number of writes whose content was incomplete. */
  failedWrites = 0;
  /** Makes every read of a file fail with it after the first chunk. */
  readError: TorporError | undefined;
  /** Contains a directory for each sandbox. */
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  methods(owner: GuestOwner): Methods {
    return {
      writeFileStream: async (messages) => {
        owner.enter('writeFileStream');
        let file: Awaited<ReturnType<typeof open>> | undefined;
        try {
          for await (const { content } of messages) {
            if (content.case === 'meta') {
              owner.require(content.value.sandboxId);
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
        this: MemoryFiles,
        request: hostAgent.ReadFileStreamRequest,
      ) {
        owner.enter('readFileStream');
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
        owner.enter('listDir');
        const names = await readdir(this.#path(sandboxId, path)).catch((error) => {
          const code = error.code === 'ENOTDIR' ? 'invalid_request' : 'not_found';
          throw new TorporError(code, `The directory ${path} does not exist.`).toConnectError();
        });
        return {
          entries: await Promise.all(names.map((name) => this.#entry(sandboxId, join(path, name)))),
        };
      },
      makeDir: async ({ sandboxId, path }) => {
        owner.enter('makeDir');
        await mkdir(this.#path(sandboxId, path)).catch(() => {
          throw new TorporError('already_exists', `${path} exists.`).toConnectError();
        });
        return { entry: await this.#entry(sandboxId, path) };
      },
      removePath: async ({ sandboxId, path }) => {
        owner.enter('removePath');
        await rm(this.#path(sandboxId, path), { recursive: true });
        return {};
      },
    };
  }

  #path(id: string, path: string): string {
    return join(this.#root, id, path);
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
