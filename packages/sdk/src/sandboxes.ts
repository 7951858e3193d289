import * as rest from '@torpor/protocol/rest';
import type { z } from 'zod';
import type { Connection, CreateOptions } from './http/connection.ts';
import { IDLE_TIMEOUT_NAMES, withSdkNames } from './http/field-names.ts';
import { Sandbox } from './sandbox.ts';
import { seconds } from './units.ts';

export interface CreateSandboxOptions extends CreateOptions {
  /** An image or a snapshot; a snapshot fixes vCPUs, memory and disk. The default is `base`. */
  readonly template?: string | undefined;
  /** Number of virtual CPUs. The default is 1. */
  readonly vcpus?: number | undefined;
  /** Memory in MiB. The default is 512. */
  readonly memoryMiB?: number | undefined;
  /** Size of the writable disk in MiB, of which only what the sandbox writes takes space on the host. The default is that of the host. */
  readonly diskSizeMiB?: number | undefined;
  /** Time without activity after which the sandbox is destroyed or paused, rounded up to whole seconds; 0, the default, means never. */
  readonly idleTimeoutMs?: number | undefined;
  /** Pause the sandbox after the idle timeout instead of destroying it. The default is false. */
  readonly autoPause?: boolean | undefined;
  /** Labels to find the sandbox by. */
  readonly metadata?: Record<string, string> | undefined;
  /** Environment variables of every process in the sandbox. */
  readonly envs?: Record<string, string> | undefined;
  /** Whether the sandbox can reach the internet. The default is true. */
  readonly allowInternet?: boolean | undefined;
  /** Tags that the host of the sandbox must have: every one of them. */
  readonly hostTags?: readonly string[] | undefined;
}

export interface ListSandboxesOptions {
  /** The default is all states but `stopped`. */
  readonly states?: readonly rest.Sandbox['status'][] | undefined;
  readonly template?: string | undefined;
  /** Only sandboxes with these labels. */
  readonly metadata?: Record<string, string> | undefined;
  readonly signal?: AbortSignal | undefined;
}

const PAGE_SIZE = 200;

export class Sandboxes {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Creates a sandbox; resolves when it can run programs. */
  async create(options: CreateSandboxOptions = {}): Promise<Sandbox> {
    const body: z.input<typeof rest.createSandboxSchema> = {
      template: options.template,
      vcpus: options.vcpus,
      memory_mb: options.memoryMiB,
      disk_size_mb: options.diskSizeMiB,
      timeout_sec: seconds(options.idleTimeoutMs),
      auto_pause: options.autoPause,
      metadata: options.metadata,
      envs: options.envs,
      allow_internet: options.allowInternet,
      host_tags: options.hostTags === undefined ? undefined : [...options.hostTags],
    };
    const info = await withSdkNames(
      this.#connection.create('/v1/sandboxes', rest.sandboxSchema, {
        json: body,
        idempotencyKey: options.idempotencyKey,
        signal: options.signal,
      }),
      IDLE_TIMEOUT_NAMES,
    );
    return new Sandbox(this.#connection, info);
  }

  /** All sandboxes that match, newest first. Fetches further pages as needed. */
  async *list(options: ListSandboxesOptions = {}): AsyncGenerator<Sandbox, void> {
    let nextToken: string | undefined;
    do {
      const page = await withSdkNames(
        this.#connection.json('GET', '/v1/sandboxes', rest.sandboxListSchema, {
          query: {
            limit: PAGE_SIZE,
            next_token: nextToken,
            state: options.states?.join(','),
            template: options.template,
            metadata: Object.entries(options.metadata ?? {}).map(
              ([key, value]) => `${key}=${value}`,
            ),
          },
          signal: options.signal,
        }),
      );
      for (const info of page.sandboxes) yield new Sandbox(this.#connection, info);
      nextToken = page.next_token;
    } while (nextToken !== undefined);
  }

  async get(id: string, signal?: AbortSignal): Promise<Sandbox> {
    const path = `/v1/sandboxes/${encodeURIComponent(id)}`;
    const info = await this.#connection.json('GET', path, rest.sandboxSchema, { signal });
    return new Sandbox(this.#connection, info);
  }
}
