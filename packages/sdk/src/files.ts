import type { Readable } from 'node:stream';
import * as rest from '@torpor/protocol/rest';
import type { Connection } from './http/connection.ts';
import { incompleteResponse } from './http/errors.ts';

export interface FileOptions {
  /** The user for the operation, or `user:group`, by name or number; the default is `user`. */
  readonly user?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The files of a sandbox. Relative paths are relative to the user's home directory. */
export class Files {
  readonly #connection: Connection;
  readonly #path: string;

  constructor(connection: Connection, sandboxPath: string) {
    this.#connection = connection;
    this.#path = `${sandboxPath}/files`;
  }

  /** Reads a whole file into memory. For large files, use {@link readStream}. */
  async read(path: string, options: FileOptions = {}): Promise<Buffer> {
    const content = await this.readStream(path, options);
    try {
      return Buffer.concat(await content.toArray());
    } catch (error) {
      throw options.signal?.aborted
        ? options.signal.reason
        : incompleteResponse(this.#connection.apiUrl, error);
    }
  }

  async readText(path: string, options: FileOptions = {}): Promise<string> {
    return (await this.read(path, options)).toString();
  }

  /** Reads a file as a stream, with back-pressure. An error in mid-file destroys the stream. */
  readStream(path: string, options: FileOptions = {}): Promise<Readable> {
    return this.#connection.stream('GET', this.#path, {
      query: { path, user: options.user },
      signal: options.signal,
    });
  }

  /** Writes a whole file, and creates missing directories. A stream is sent with back-pressure. */
  async write(
    path: string,
    content: string | Uint8Array | Readable,
    options: FileOptions = {},
  ): Promise<void> {
    await this.#connection.empty('PUT', this.#path, {
      query: { path, user: options.user },
      body: typeof content === 'string' ? Buffer.from(content) : content,
      signal: options.signal,
    });
  }

  /** Lists a directory and the directories below it, `depth` levels deep. The default is 1: only its own entries. */
  async list(
    path: string,
    options: FileOptions & { readonly depth?: number | undefined } = {},
  ): Promise<rest.FileEntry[]> {
    const { entries } = await this.#connection.json(
      'POST',
      `${this.#path}/list`,
      rest.fileListSchema,
      { json: { path, depth: options.depth, user: options.user }, signal: options.signal },
    );
    return entries;
  }

  /** Creates a directory and its parents. Throws `already_exists`. */
  async makeDir(path: string, options: FileOptions = {}): Promise<rest.FileEntry> {
    const { entry } = await this.#connection.json(
      'POST',
      `${this.#path}/mkdir`,
      rest.fileEntryResponseSchema,
      { json: { path, user: options.user }, signal: options.signal },
    );
    return entry;
  }

  /** Removes a file, or a directory with its content. */
  async remove(path: string, options: FileOptions = {}): Promise<void> {
    await this.#connection.empty('POST', `${this.#path}/remove`, {
      json: { path, user: options.user },
      signal: options.signal,
    });
  }
}
