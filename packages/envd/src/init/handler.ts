import type { IncomingMessage, ServerResponse } from 'node:http';
import { isIP } from 'node:net';
import { type InitRequest, initRequestSchema } from '@torpor/protocol';
import type { EnvdContext } from '../context.ts';
import { sendError } from '../http/response.ts';
import { type GuestSystem, InitStepError } from './guest-system.ts';

const MAX_BODY_BYTES = 1024 * 1024;
/** One label of a host name; hostname(7). */
const HOSTNAME = /^[a-zA-Z0-9]([a-zA-Z0-9-]{0,62}[a-zA-Z0-9])?$/;

/** Runs one `/init` after the other. */
export class InitHandler {
  readonly #context: EnvdContext;
  readonly #system: GuestSystem | undefined;
  #tail: Promise<void> = Promise.resolve();

  /** @param system Omitted on a machine that is not a guest: only settings are applied then. */
  constructor(context: EnvdContext, system: GuestSystem | undefined) {
    this.#context = context;
    this.#system = system;
  }

  /**
   * Handles `POST /init`: 204 when all steps succeeded; 400 for an invalid body; 401 if an
   * access token is set and neither the body's nor the `X-Access-Token` header's is the same
   * (with the header the host gives a restored guest a new token); 500 with the step that
   * failed.
   */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await readBody(request);
    if (body === undefined) return sendError(response, 413, 'the body is too large');
    const parsed = parseRequest(body);
    if (typeof parsed === 'string') return sendError(response, 400, parsed);
    const header = request.headers['x-access-token'];
    const result = this.#tail.then(() => this.#apply(parsed, header, response));
    this.#tail = result.catch(() => undefined);
    await result;
  }

  async #apply(
    request: InitRequest,
    header: string | string[] | undefined,
    response: ServerResponse,
  ): Promise<void> {
    const { accessToken } = this.#context;
    const proof = typeof header === 'string' ? header : undefined;
    if (!accessToken.allows(request.accessToken) && !accessToken.allows(proof)) {
      return sendError(response, 401, 'access token validation failed');
    }
    try {
      this.#system?.apply(request);
    } catch (error) {
      if (!(error instanceof InitStepError)) throw error;
      return sendError(response, 500, `init failed at ${error.message}`);
    }
    this.#applyToDaemon(request);
    response.writeHead(204, { 'Cache-Control': 'no-store' }).end();
  }

  #applyToDaemon(request: InitRequest): void {
    const context = this.#context;
    if (request.accessToken) context.accessToken.set(request.accessToken);
    if (request.envVars !== undefined) {
      context.envVars = { ...context.envVars, ...request.envVars };
    }
    if (request.defaultUser) context.defaultUser = request.defaultUser;
    if (request.defaultWorkdir) context.defaultWorkdir = request.defaultWorkdir;
    context.rememberDefaultUser();
  }
}

/** The whole body, or undefined if it is over the limit. */
async function readBody(request: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** The request, or a message that says what is wrong with it. */
function parseRequest(body: string): InitRequest | string {
  let value: unknown;
  try {
    value = body.trim() === '' ? {} : JSON.parse(body);
  } catch {
    return 'the body is not JSON';
  }
  const parsed = initRequestSchema.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const where = issue?.path.join('.') ?? '';
    return `invalid init request${where === '' ? '' : ` at ${where}`}: ${issue?.message ?? ''}`;
  }
  const { caBundle, hostname, nameservers = [], volumeMounts = [] } = parsed.data;
  if (hostname !== undefined && !HOSTNAME.test(hostname)) {
    return `'${hostname}' cannot be a host name`;
  }
  const wrong = nameservers.find((address) => isIP(address) === 0);
  if (wrong !== undefined) return `'${wrong}' is not the address of a name server`;
  if (caBundle || volumeMounts.length > 0) {
    return 'caBundle and volumeMounts are not supported';
  }
  return parsed.data;
}
