import { z } from 'zod';

/** The longest time that one request sums up. */
export const MAX_USAGE_DAYS = 92;

export const usageQuerySchema = z.strictObject({
  from: z.iso
    .datetime({ offset: true })
    .optional()
    .meta({ description: '30 days before `to` if omitted.' }),
  to: z.iso.datetime({ offset: true }).optional().meta({ description: 'Now if omitted.' }),
});

const amounts = {
  vcpu_seconds: z.number().meta({ description: 'Virtual CPUs of running sandboxes × seconds.' }),
  memory_mb_seconds: z.number().meta({ description: 'MiB of running sandboxes × seconds.' }),
  disk_mb_seconds: z.number().meta({
    description:
      'MiB × seconds: the size of the disks of sandboxes until they are destroyed, and what snapshots occupy.',
  }),
};

export const usageSchema = z
  .strictObject({
    from: z.iso.datetime(),
    to: z.iso.datetime(),
    total: z.strictObject(amounts),
    points: z.array(
      z.strictObject({ date: z.iso.date().meta({ description: 'In UTC.' }), ...amounts }),
    ),
  })
  .meta({ id: 'Usage' });

export type Usage = z.infer<typeof usageSchema>;
