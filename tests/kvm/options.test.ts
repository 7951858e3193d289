import { expect, test } from 'vitest';
import { parseKvmTestOptions } from './options.ts';

test('without a Firecracker the sandboxes run in QEMU', () => {
  expect(parseKvmTestOptions([], { TORPOR_FIRECRACKER: '' })).toEqual({
    memoryMiB: 5120,
    timeoutMinutes: 90,
    keep: false,
  });
});

test('a supplied Firecracker is used, with its jailer if there is one', () => {
  const env = { TORPOR_FIRECRACKER: '/opt/firecracker' };
  expect(parseKvmTestOptions([], env)).toMatchObject({
    firecracker: { path: '/opt/firecracker' },
  });
  expect(parseKvmTestOptions(['--keep'], { ...env, TORPOR_JAILER: '/opt/jailer' })).toMatchObject({
    firecracker: { path: '/opt/firecracker', jailerPath: '/opt/jailer' },
    keep: true,
  });
});

test.each([
  [['--memory', 'lots'], {}, '--memory is "lots"'],
  [['--memory', '512'], {}, 'from 3072 on'],
  [['--timeout', '0'], {}, 'from 1 on'],
  [['--fast'], {}, '--fast'],
  [['qemu'], {}, 'qemu'],
  [[], { TORPOR_JAILER: '/opt/jailer' }, 'TORPOR_FIRECRACKER is not'],
])('contradictory options are refused: %j with %j', (args, env, message) => {
  expect(() => parseKvmTestOptions(args, env)).toThrow(message);
});
