import type { HandlerContext } from '@connectrpc/connect';
import { rest, TorporError } from '@torpor/protocol';
import { type Member, MemoryHost, until } from '@torpor/testkit/control-plane';
import type { DoomedControlPlane } from './doomed-control-plane.ts';

/** The calls that change something. */
const CHANGES = new Set([
  'createSandbox',
  'destroySandbox',
  'pauseSandbox',
  'resumeSandbox',
  'forkSandbox',
  'createSnapshot',
  'deleteSnapshot',
]);

const START_TIMEOUT_MS = 60_000;

type Handler = (request: never, context: HandlerContext) => unknown;

/** Hosts without virtual machines that have joined; their calls are steps of a control plane that is to die. */
export class MemoryHosts implements AsyncDisposable {
  readonly hosts: readonly MemoryHost[];
  /** Whose calls they are. */
  doomed: DoomedControlPlane | undefined;
  /** What a late call waits for. */
  #settled = Promise.withResolvers<void>();
  readonly #late: Promise<unknown>[] = [];
  readonly #member: Member;
  #turn = 0;

  private constructor(member: Member, hosts: readonly MemoryHost[]) {
    this.#member = member;
    this.hosts = hosts;
  }

  static async join(member: Member, count: number): Promise<MemoryHosts> {
    await using stack = new AsyncDisposableStack();
    const hosts = stack.use(
      new MemoryHosts(
        member,
        await Promise.all(Array.from({ length: count }, () => MemoryHost.make())),
      ),
    );
    for (const [index, host] of hosts.hosts.entries()) {
      host.agent.limits.memoryMb = 1_000_000;
      const response = await member.call('POST', '/hosts', { name: `host-${index}` });
      await host.start(rest.createdHostSchema.parse(await response.json()), {
        heartbeatMs: 1_000,
        routes: (router) =>
          host.agent.routes({
            ...router,
            service: (definition, methods) => router.service(definition, hosts.#withSteps(methods)),
          }),
      });
    }
    await hosts.untilKnownTo(member.call);
    stack.move();
    return hosts;
  }

  /** From now on another one takes the sandboxes; the rest are drained. */
  async takeTurns(): Promise<void> {
    this.#turn = (this.#turn + 1) % this.hosts.length;
    for (const [index, { id }] of this.hosts.entries()) {
      const draining = index !== this.#turn;
      const { ok } = await this.#member.call('PATCH', `/hosts/${id}`, { draining });
      if (!ok) throw new Error(`Could not drain ${id}.`);
    }
  }

  /** Waits until the control plane with this API can call each of them. */
  async untilKnownTo(call: Member['call']): Promise<void> {
    await until(() => this.#areKnownTo(call), START_TIMEOUT_MS);
  }

  /** To list all builds, a control plane asks every host that it knows. */
  async #areKnownTo(call: Member['call']): Promise<boolean> {
    const asked = () => this.hosts.map(({ agent }) => agent.count('verifyBuilds'));
    const before = asked();
    await call('GET', '/builds?verify=true');
    return asked().every((count, index) => count > (before[index] ?? 0));
  }

  /** Lets late calls begin, and waits until they have returned. */
  async admitLateCalls(): Promise<void> {
    this.#settled.resolve();
    await Promise.all(this.#late.splice(0));
    this.#settled = Promise.withResolvers();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const host of this.hosts) await host[Symbol.asyncDispose]();
  }

  #withSteps<M extends object>(methods: M): M {
    const entries = Object.entries(methods).map(([name, method]: [string, Handler]) => [
      name,
      CHANGES.has(name) ? this.#withStepsOf(name, method) : method,
    ]);
    return Object.fromEntries(entries);
  }

  /** It dies before the agent gets the call, or before it begins with it, or before it returns. */
  #withStepsOf(name: string, method: Handler): Handler {
    return async (request, context) => {
      const caller = this.doomed;
      if (caller?.reach(`${name} not received`)) {
        throw new TorporError('host_unavailable', 'The caller has died.').toConnectError();
      }
      const begin = async () => method(request, context);
      if (caller?.reach(`${name} late`)) {
        const call = this.#settled.promise.then(begin);
        this.#late.push(call.catch(() => undefined));
        return call;
      }
      const response = await begin();
      caller?.reach(`${name} done`);
      return response;
    };
  }
}
