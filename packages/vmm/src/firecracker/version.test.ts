import { expect, test } from 'vitest';
import { featuresOf, hasSoundDiffs, isVersionAtLeast, snapshotFormat } from './version.ts';

const NEW_KERNEL = '6.1.0-51-cloud-amd64';

test('a version is only asked for features that it has', () => {
  const none = { networkOverrides: false, tracksDirtyPagesOnLoad: false, clockRealtime: false };
  expect(featuresOf('1.8.0', NEW_KERNEL)).toEqual(none);
  expect(featuresOf('1.11.9', NEW_KERNEL)).toEqual(none);
  expect(featuresOf('1.12.0', NEW_KERNEL)).toEqual({ ...none, networkOverrides: true });
  const two = { ...none, networkOverrides: true, tracksDirtyPagesOnLoad: true };
  expect(featuresOf('1.13.0', NEW_KERNEL)).toEqual(two);
  expect(featuresOf('1.15.2', NEW_KERNEL)).toEqual(two);
  expect(featuresOf('1.16.0', NEW_KERNEL)).toEqual({ ...two, clockRealtime: true });
  expect(featuresOf('2.0.0', NEW_KERNEL)).toEqual({ ...two, clockRealtime: true });
});

test("the guest's clock is not set by a kernel that cannot", () => {
  expect(featuresOf('1.16.1', '5.10.223-cloud').clockRealtime).toBe(false);
  expect(featuresOf('1.16.1', '5.16.0').clockRealtime).toBe(true);
});

test('versions are compared by numbers, whatever follows them', () => {
  expect(isVersionAtLeast('1.17.0-dev', 1, 17)).toBe(true);
  expect(isVersionAtLeast('v1.14.1_431f1fc', 1, 14)).toBe(true);
  expect(isVersionAtLeast('1.9.1', 1, 10)).toBe(false);
  expect(isVersionAtLeast('0.25.2', 1, 0)).toBe(false);
  expect(isVersionAtLeast('nonsense', 0, 0)).toBe(false);
});

test('a diff of more than one slot of RAM is trusted from 1.14.2 on', () => {
  for (const version of ['1.8.0', '1.13.1', '1.14.1']) {
    expect(hasSoundDiffs(version, 3072)).toBe(true);
    expect(hasSoundDiffs(version, 3073)).toBe(false);
  }
  for (const version of ['1.14.2', 'v1.14.10', '1.15.0', '1.16.1', '2.0.0']) {
    expect(hasSoundDiffs(version, 8192)).toBe(true);
  }
});

test('each minor version has a format of snapshots, but two that share one', () => {
  expect(snapshotFormat('1.14.1')).toBe(snapshotFormat('v1.13.0'));
  expect(snapshotFormat('1.16.0')).toBe(snapshotFormat('1.16.1'));
  const formats = ['1.12.0', '1.13.0', '1.15.0', '1.16.0', '1.17.0-dev', '2.0.0'];
  expect(new Set(formats.map(snapshotFormat)).size).toBe(formats.length);
});
