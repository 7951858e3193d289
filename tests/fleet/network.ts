import { randomInt } from 'node:crypto';
import { ipBatch } from '@torpor/linux';

/**
 * A network of machines that are namespaces: each has a link to a switch, which is one too. This
 * machine has a link as well, with the first address. None has a route to anywhere else.
 *
 *     this machine (.1) ─┐
 *     cp-1 (.11)        ─┼─ switch
 *     host-1 (.21)      ─┘
 */
export class FleetNetwork implements AsyncDisposable {
  /** In CIDR notation. */
  readonly network: string;
  /** Of this machine. */
  readonly address: string;
  readonly #prefix: string;
  readonly #tag: string;
  readonly #switch: string;
  readonly #links = new Map<string, string>();
  readonly #resources = new AsyncDisposableStack();

  private constructor(tag: string, prefix: string) {
    this.#tag = tag;
    this.#prefix = prefix;
    this.#switch = `tpf-${tag}-switch`;
    this.network = `${prefix}.0/24`;
    this.address = `${prefix}.1`;
  }

  static async open(): Promise<FleetNetwork> {
    // For benchmarks of networks (RFC 2544): no real network has these addresses.
    const prefix = `198.18.${randomInt(1, 255)}`;
    const fleet = new FleetNetwork(randomInt(0x1000, 0x1_0000).toString(16), prefix);
    await using stack = new AsyncDisposableStack();
    stack.use(fleet);
    await fleet.#addSwitch();
    stack.move();
    return fleet;
  }

  async #addSwitch(): Promise<void> {
    await this.#addNamespace(this.#switch);
    await ipBatch(['link add name bridge type bridge', 'link set bridge up'], {
      namespace: this.#switch,
    });
    const own = `tpf${this.#tag}`;
    await ipBatch([
      `link add name ${own} type veth peer name here netns ${this.#switch}`,
      `addr add ${this.address}/24 dev ${own}`,
      `link set ${own} up`,
    ]);
    await this.#plug('here');
  }

  /** Adds a machine with this address in its last part. Returns its namespace and address. */
  async addMachine(
    name: string,
    last: number,
  ): Promise<{ readonly namespace: string; readonly address: string }> {
    const namespace = `tpf-${this.#tag}-${name}`;
    const address = `${this.#prefix}.${last}`;
    await this.#addNamespace(namespace);
    await ipBatch(
      [
        'link set lo up',
        `link add name uplink type veth peer name ${name} netns ${this.#switch}`,
        `addr add ${address}/24 dev uplink`,
        'link set uplink up',
        // An agent needs to know which interface guests would use. The switch forwards nothing.
        `route add default via ${this.#prefix}.254`,
      ],
      { namespace },
    );
    this.#links.set(namespace, name);
    await this.#plug(name);
    return { namespace, address };
  }

  /** Nothing reaches a machine any more, nor does it reach anything. */
  cut(namespace: string): Promise<void> {
    return this.#setLink(namespace, 'down');
  }

  join(namespace: string): Promise<void> {
    return this.#setLink(namespace, 'up');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources.disposeAsync();
  }

  #setLink(namespace: string, state: 'up' | 'down'): Promise<void> {
    return ipBatch([`link set ${this.#links.get(namespace)} ${state}`], {
      namespace: this.#switch,
    });
  }

  #plug(link: string): Promise<void> {
    return ipBatch([`link set ${link} master bridge`, `link set ${link} up`], {
      namespace: this.#switch,
    });
  }

  async #addNamespace(name: string): Promise<void> {
    await ipBatch([`netns add ${name}`]);
    this.#resources.defer(() => ipBatch([`netns del ${name}`]));
  }
}
