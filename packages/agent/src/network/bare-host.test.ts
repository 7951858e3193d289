import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { listInstanceSlots } from '@torpor/testkit/agent';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { claimAddressBlock } from './address-block.ts';
import { forwardingObstacles } from './host-firewall.ts';
import { formatIpv4Prefix, parseIpv4Prefix } from './ipv4.ts';

/*
 * Output of ip and nft on hosts where nothing has been used yet, or of another version. The
 * programs are faked, because this machine's kernel differs.
 */

let directory: string;
let path: string | undefined;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-bare-host-'));
  path = process.env.PATH;
  process.env.PATH = `${directory}:${path}`;
});
afterEach(async () => {
  process.env.PATH = path;
  await rm(directory, { recursive: true });
});

/** A program that prints a text for any arguments, and accepts any batch. */
async function plays(name: string, output: string, status = 0): Promise<void> {
  const script = `#!/bin/sh\ncase "$*" in *batch*) cat >/dev/null; exit 0;; esac\ncat <<'END'\n${output}\nEND\nexit ${status}\n`;
  await writeFile(join(directory, name), script);
  await chmod(join(directory, name), 0o755);
}

const slots = () => listInstanceSlots({ instance: 'abc123' });
const ours = '{"ifname":"tpabc123v7","link_netnsid":2,"linkinfo":{"info_kind":"veth"}}';

describe('the slots', () => {
  test.each([
    ['a freshly booted Debian, whose veth module is not loaded', '[{},{}]', []],
    ['an ip that prints nothing for an empty list', '', []],
    ['an ip that prints an empty list', '[]', []],
    ['a link of another type beside ours', `[{},${ours},{}]`, [7]],
    ['a link without a name', `[{"ifindex":3},${ours}]`, [7]],
    ['a link with fields that we do not know', `[{"ifname":"eth0","x":{}},${ours}]`, [7]],
    ['a warning before the list', `Warning: an old kernel.\n[${ours}]`, [7]],
  ])('of %s', async (_, output, expected) => {
    await plays('ip', output);
    expect(await slots()).toEqual(expected);
  });

  test('of an ip that prints something else are an error with what it printed', async () => {
    await plays('ip', 'Object "link" is unknown');
    await expect(slots()).rejects.toMatchObject({
      name: 'CommandError',
      message: expect.stringMatching(/^ip .*link show type veth: .*not JSON: Object "link"/s),
    });
  });
});

test.each([
  ['nothing at all', ''],
  ['empty objects', '[{},{}]'],
  ['links without addresses, and routes without a destination', '[{"ifname":"lo"},{"dev":"lo"}]'],
  ['addresses that are not IPv4', '[{"ifname":"lo","addr_info":[{},{"family":"inet6"}]}]'],
])('a block of addresses is claimed where ip lists %s', async (_, output) => {
  await plays('ip', output);
  const block = await claimAddressBlock({
    stateFile: join(directory, 'network.json'),
    addressRange: parseIpv4Prefix('10.201.0.0/16'),
    maxSlots: 100,
    keep: false,
    hostNamespace: undefined,
  });
  expect(formatIpv4Prefix(block)).toBe('10.201.0.0/24');
});

describe('other firewalls', () => {
  const version = '{"metainfo":{"version":"1.0.6","json_schema_version":1}}';
  const NAME = 'ip filter FORWARD';
  const drops =
    '{"chain":{"family":"ip","table":"filter","name":"FORWARD","hook":"forward","policy":"drop"}}';
  test.each([
    ['none, and no output', '', []],
    ['none, and output without a list', '{}', []],
    ['none but the version', `{"nftables": [${version}]}`, []],
    ['one, after entries that we do not know', `{"nftables":[{},{"chain":{}},${drops}]}`, [NAME]],
    [
      'one that iptables manages',
      `# Warning: table ip filter is managed by iptables-nft, do not touch!\n{"nftables":[${drops}]}`,
      [NAME],
    ],
  ])('%s', async (_, output, expected) => {
    await plays('nft', output);
    expect(await forwardingObstacles()).toEqual(expected);
  });
});
