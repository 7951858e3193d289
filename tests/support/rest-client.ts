import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { rest } from '@torpor/protocol';
import { z } from 'zod';

const credentialsSchema = z.looseObject({ api_key: z.string() });

export interface RestResponse {
  readonly status: number;
  readonly body: unknown;
}

/** An HTTP client of the API that can send requests which our own clients refuse. */
export class RestClient {
  readonly #apiUrl: string;
  readonly #apiKey: string;

  private constructor(apiUrl: string, apiKey: string) {
    this.#apiUrl = apiUrl;
    this.#apiKey = apiKey;
  }

  /** With the key of the owner of the data directory. */
  static async open(apiUrl: string, dataDir: string): Promise<RestClient> {
    const text = await readFile(join(dataDir, 'credentials.json'), 'utf8');
    return new RestClient(apiUrl, credentialsSchema.parse(JSON.parse(text)).api_key);
  }

  /** A body that is not a string is sent as JSON. */
  async send(method: string, path: string, body?: unknown): Promise<RestResponse> {
    const response = await fetch(`${this.#apiUrl}${path}`, {
      method,
      headers: { 'x-api-key': this.#apiKey, 'content-type': 'application/json' },
      ...(body === undefined
        ? {}
        : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, body: text === '' ? undefined : JSON.parse(text) };
  }

  /** Sends what must be refused. Returns the error; throws ZodError if the response is none. */
  async refused(
    method: string,
    path: string,
    body?: unknown,
  ): Promise<rest.ErrorBody['error'] & { readonly status: number }> {
    const response = await this.send(method, path, body);
    return { status: response.status, ...rest.errorBodySchema.parse(response.body).error };
  }

  async sandbox(id: string): Promise<rest.Sandbox> {
    return rest.sandboxSchema.parse((await this.send('GET', `/v1/sandboxes/${id}`)).body);
  }
}
