import type { DirtyBase } from '@torpor/vmm';
import { z } from 'zod';

/*
 * Records of earlier versions of Torpor, whose sandboxes must be adopted and resumed.
 *
 * Version 1 stored the base of RAM in two fields, each of which could be missing, and not the
 * origin of RAM: that followed from whether a page server served it.
 *
 * A spec without a default user had an empty one, also in early records of version 2.
 */

const version1Schema = z.looseObject({
  formatVersion: z.literal(1),
  machine: z.looseObject({}).optional(),
  memory: z
    .strictObject({
      parentId: z.string().optional(),
      parentSnapshot: z.int().min(0).optional(),
      servedAs: z.string().optional(),
    })
    .optional(),
});

type Version1Memory = NonNullable<z.infer<typeof version1Schema>['memory']>;

const emptyUserSchema = z.looseObject({ spec: z.looseObject({ defaultUser: z.literal('') }) });

/** Converts the content of a record's file to the current version; other values are returned as they are. */
export function upgradeRecord(value: unknown): unknown {
  return upgradeVersion1(withoutEmptyUser(value));
}

function withoutEmptyUser(value: unknown): unknown {
  const old = emptyUserSchema.safeParse(value);
  if (!old.success) return value;
  const { defaultUser: _empty, ...spec } = old.data.spec;
  return { ...old.data, spec };
}

function upgradeVersion1(value: unknown): unknown {
  const old = version1Schema.safeParse(value);
  if (!old.success) return value;
  const { machine, memory, ...rest } = old.data;
  const memoryOrigin = memory?.servedAs === undefined ? 'zeros' : 'userfaultfd';
  return {
    ...rest,
    formatVersion: 2,
    ...(machine === undefined ? {} : { machine: { ...machine, memoryOrigin } }),
    ...(memory === undefined ? {} : { memory: upgradeMemory(memory) }),
  };
}

function upgradeMemory(memory: Version1Memory) {
  const { servedAs } = memory;
  return { base: baseOf(memory), ...(servedAs === undefined ? {} : { servedAs }) };
}

function baseOf({ parentId, parentSnapshot }: Version1Memory): DirtyBase {
  if (parentId === undefined) return parentSnapshot === 0 ? { kind: 'zeros' } : { kind: 'unknown' };
  if (parentSnapshot === undefined) return { kind: 'unknown', buildId: parentId };
  return { kind: 'build', buildId: parentId, number: parentSnapshot };
}
