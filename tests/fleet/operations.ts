import { randomUUID } from 'node:crypto';
import { rest } from '@torpor/protocol';
import type { Member } from '@torpor/testkit/control-plane';

/** Makes a request to a control plane. Rejects if it dies. */
export type Call = (
  method: string,
  path: string,
  body?: object,
  headers?: Readonly<Record<string, string>>,
) => Promise<Response>;

/** What an operation is done with. */
export interface Target {
  /** Of the sandbox; undefined if there is none. */
  readonly id?: string;
  /** Of the snapshot. */
  readonly name?: string;
}

export interface Operation {
  /** After `nextHost`, sandboxes are placed on another host. */
  prepare(by: Member, nextHost: () => Promise<void>): Promise<Target>;
  /** Returns a request that can be made again, at another control plane. */
  request(target: Target): (call: Call) => Promise<Response>;
  /** Whether it is to be made again after the control plane has died: it has an idempotency key. */
  readonly isRepeated?: true;
}

let names = 0;
const newName = () => `snapshot-${++names}`;

async function running(by: Member): Promise<{ id: string }> {
  return { id: (await by.create()).id };
}

async function paused(by: Member): Promise<{ id: string }> {
  const target = await running(by);
  await succeed(by.call('POST', `/sandboxes/${target.id}/pause`));
  return target;
}

async function snapshotted(by: Member): Promise<{ id: string; name: string }> {
  const target = { ...(await running(by)), name: newName() };
  const { id: sandbox_id, name } = target;
  await succeed(by.call('POST', '/snapshots', { sandbox_id, name }));
  return target;
}

async function succeed(response: Promise<Response>): Promise<void> {
  const { ok, url } = await response;
  if (!ok) throw new Error(`${url}: ${await (await response).text()}`);
}

const post =
  (verb: string, body?: object) =>
  ({ id }: Target) =>
  (call: Call) =>
    call('POST', `/sandboxes/${id}/${verb}`, body);

/** With an idempotency key, so that it can be made again. */
function keyed(method: string, path: (target: Target) => string, body: (target: Target) => object) {
  return (target: Target) => {
    const headers = { 'idempotency-key': randomUUID() };
    return (call: Call) => call(method, path(target), body(target), headers);
  };
}

const memory_mb = 128;
const snapshotOf = ({ id, name }: Target) => ({ sandbox_id: id, name });

export const OPERATIONS: Readonly<Record<string, Operation>> = {
  create: {
    prepare: async () => ({}),
    request: () => (call) => call('POST', '/sandboxes', { memory_mb }),
  },
  'create, and again': {
    prepare: async () => ({}),
    request: keyed(
      'POST',
      () => '/sandboxes',
      () => ({ memory_mb }),
    ),
    isRepeated: true,
  },
  'create from a snapshot': {
    prepare: snapshotted,
    request:
      ({ name: template }) =>
      (call) =>
        call('POST', '/sandboxes', { template }),
  },
  pause: { prepare: running, request: post('pause') },
  resume: { prepare: paused, request: post('resume') },
  fork: { prepare: running, request: post('fork', { count: 2 }) },
  'fork, and again': {
    prepare: running,
    request: keyed(
      'POST',
      ({ id }) => `/sandboxes/${id}/fork`,
      () => ({ count: 2 }),
    ),
    isRepeated: true,
  },
  destroy: {
    prepare: running,
    request:
      ({ id }) =>
      (call) =>
        call('DELETE', `/sandboxes/${id}`),
  },
  snapshot: {
    prepare: async (by) => ({ ...(await running(by)), name: newName() }),
    request: (target) => (call) => call('POST', '/snapshots', snapshotOf(target)),
  },
  'snapshot, and again': {
    prepare: async (by) => ({ ...(await running(by)), name: newName() }),
    request: keyed('POST', () => '/snapshots', snapshotOf),
    isRepeated: true,
  },
  'a snapshot that replaces one': {
    // On another host.
    prepare: async (by, nextHost) => {
      const { name } = await snapshotted(by);
      await nextHost();
      return { ...(await running(by)), name };
    },
    request: (target) => (call) => call('POST', '/snapshots?overwrite=true', snapshotOf(target)),
  },
  'delete a snapshot': {
    prepare: snapshotted,
    request:
      ({ name }) =>
      (call) =>
        call('DELETE', `/snapshots/${name}`),
  },
};

/** The ids of the sandboxes that a response names; none if it is not that of a create or fork. */
export async function createdIds(response: Response): Promise<string[]> {
  const body: unknown = await response.json();
  const sandbox = rest.sandboxSchema.safeParse(body);
  if (sandbox.success) return [sandbox.data.id];
  const children = rest.forkResultSchema.safeParse(body).data?.children ?? [];
  return children.flatMap((child) => child.sandbox?.id ?? []);
}
