import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CommandError } from './command.ts';
import { checkedInterfaceName, ipBatch, ipJson } from './ip.ts';
import {
  checkedNamespaceName,
  listNamespaces,
  readNetSysctl,
  runInNamespace,
  writeNetSysctls,
} from './netns.ts';
import { checkedNftName, nftApply, nftInetTable, nftList } from './nft.ts';

const namespace = `tpt-linux-${randomBytes(3).toString('hex')}`;

beforeAll(() => ipBatch([`netns add ${namespace}`]));
afterAll(() => ipBatch([`netns del ${namespace}`]));

describe('names and lines that could mean something else are refused', () => {
  test.each(['', '../../etc', '-x', 'a b', 'a\nb', 'a'.repeat(65)])('namespace %j', (name) => {
    expect(() => checkedNamespaceName(name)).toThrow(RangeError);
  });
  test.each(['', 'a/b', '-x', 'a b', 'sixteen-letters-', 'eth0;'])('interface %j', (name) => {
    expect(() => checkedInterfaceName(name)).toThrow(RangeError);
  });
  test.each(['', '1a', 'a b', 'a;b', 'A', 'a}'])('nftables %j', (name) => {
    expect(() => checkedNftName(name)).toThrow(RangeError);
  });
  test.each(['', 'link show # all', 'link show\nlink del lo', "link 'x'", 'a\\', ' link'])(
    'ip batch %j',
    async (line) => {
      await expect(ipBatch([line], { namespace })).rejects.toThrow(RangeError);
    },
  );
  test('sysctl', async () => {
    await expect(writeNetSysctls({ '../kernel/panic': 1 }, { namespace })).rejects.toThrow(
      RangeError,
    );
  });
});

test('a namespace is listed, and programs run in it', async () => {
  expect(await listNamespaces()).toContain(namespace);
  expect(await runInNamespace(namespace, 'ip', ['-o', 'link'])).toMatch(/^1: lo:[^\n]*\n$/);
  await expect(runInNamespace('no-such-namespace', 'true', [])).rejects.toThrow(CommandError);
});

test('a batch is applied in its namespace, and stops at the line that fails', async () => {
  await ipBatch(['link add name dm0 type veth peer name dm1', 'link set dm0 up'], { namespace });
  const failing = ['link del nonexistent', 'link del dm0'];
  await expect(ipBatch(failing, { namespace })).rejects.toMatchObject({
    name: 'CommandError',
    stderr: expect.stringContaining('nonexistent'),
  });
  expect(await ipJson(['link', 'show', 'type', 'veth'], { namespace })).toHaveLength(2);
  await expect(ipBatch(failing, { namespace, force: true })).rejects.toThrow(CommandError);
  expect(await ipJson(['link', 'show', 'type', 'veth'], { namespace })).toEqual([]);
});

test('links of a type whose kernel module is not loaded are none', async () => {
  // What this kernel prints of any type that it does not have: `{}` for each link there is.
  expect(await runInNamespace(namespace, 'ip', ['-json', 'link', 'show', 'type', 'batadv'])).toBe(
    '[{}]\n',
  );
  expect(await ipJson(['link', 'show', 'type', 'batadv'], { namespace })).toEqual([]);
});

test('sysctls are those of the namespace', async () => {
  const before = await readNetSysctl('ipv4/ip_default_ttl');
  await writeNetSysctls({ 'ipv4/ip_forward': 1, 'ipv4/ip_default_ttl': 77 }, { namespace });
  expect(await readNetSysctl('ipv4/ip_default_ttl', { namespace })).toBe('77');
  expect(await readNetSysctl('ipv4/ip_default_ttl')).toBe(before);
  await expect(writeNetSysctls({ 'ipv4/no_such_key': 1 }, { namespace })).rejects.toThrow(
    CommandError,
  );
});

test('a script of nft is applied as a whole or not at all', async () => {
  expect(await nftInetTable('torpor_test', { namespace })).toBeUndefined();
  await nftApply('table inet torpor_test { chain one {}\n}', { namespace });
  const before = await nftInetTable('torpor_test', { namespace });
  expect(before).toBeDefined();
  const torn = 'add chain inet torpor_test two\nadd rule inet torpor_test missing drop\n';
  await expect(nftApply(torn, { namespace })).rejects.toThrow(CommandError);
  expect(await nftInetTable('torpor_test', { namespace })).toEqual(before);
  expect(await nftList(['tables'], { namespace })).toMatchObject([
    { metainfo: {} },
    { table: { family: 'inet', name: 'torpor_test' } },
  ]);
});
