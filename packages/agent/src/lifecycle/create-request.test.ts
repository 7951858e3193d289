import { newId } from '@torpor/protocol';
import { describe, expect, test } from 'vitest';
import { type CreateRequest, checkedSpec, DEFAULT_DISK_MIB } from './create-request.ts';

const limits = { maxVcpus: 2, maxMemoryMiB: 4096, maxDiskMiB: 100_000 };
const request: CreateRequest = {
  id: newId('sandbox'),
  vcpus: 1,
  memoryMiB: 512,
  timeoutSec: 0,
  teamId: '',
  defaultUser: 'user',
  defaultEnv: {},
  envs: {},
  allowInternet: true,
  labels: { project: 'demo' },
  autoPause: false,
  fromSnapshot: false,
};

describe('a request to create a sandbox', () => {
  test('gets defaults for omitted fields', () => {
    expect(checkedSpec(request, limits)).toMatchObject({
      templateId: 'base',
      diskSizeMiB: DEFAULT_DISK_MIB,
      hostname: request.id,
    });
  });

  test("without a user has none, so that the image's default applies", () => {
    const { defaultUser: _user, ...anonymous } = request;
    expect(checkedSpec(request, limits)).toHaveProperty('defaultUser', 'user');
    expect(checkedSpec(anonymous, limits)).not.toHaveProperty('defaultUser');
  });

  test.each<[string, Partial<CreateRequest>]>([
    ['an empty user name', { defaultUser: '' }],
    ['no vCPU', { vcpus: 0 }],
    ['half a vCPU', { vcpus: 0.5 }],
    ['negative memory', { memoryMiB: -1 }],
    ['a tiny disk', { diskSizeMiB: 1 }],
    ['a negative time to live', { timeoutSec: -5 }],
    ['a time to live of a thousand years', { timeoutSec: 2 ** 31 - 1 }],
    ['another kind of id', { id: newId('team') }],
    ['a path as id', { id: '../../etc' }],
    ['a user name with a colon', { defaultUser: 'a:b' }],
    ['a host name with a newline', { hostname: 'a\nb' }],
    ['a variable with "="', { envs: { 'A=B': 'c' } }],
    ['a variable with NUL', { defaultEnv: { A: 'b\0' } }],
    ['a huge environment', { envs: { A: 'x'.repeat(600_000) } }],
  ])('is invalid with %s', (_, change) => {
    expect(() => checkedSpec({ ...request, ...change }, limits)).toThrowError(
      expect.objectContaining({ code: 'invalid_request' }),
    );
  });

  test.each<[string, Partial<CreateRequest>, RegExp]>([
    ['vCPUs', { vcpus: 10_000 }, /10000 vCPUs.*at most 2/],
    ['memory', { memoryMiB: 4097 }, /4097 MiB of memory.*at most 4096/],
    ['disk', { diskSizeMiB: 100_001 }, /100001 MiB of disk.*at most 100000/],
  ])('for more %s than the host has is refused with both numbers', (_, change, message) => {
    expect(() => checkedSpec({ ...request, ...change }, limits)).toThrowError(
      expect.objectContaining({
        code: 'capacity_exceeded',
        message: expect.stringMatching(message),
      }),
    );
  });
});
