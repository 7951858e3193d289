import { z } from 'zod';

export const verifyBuildsQuerySchema = z.strictObject({
  verify: z.literal('true').meta({ description: 'Every build is read back and checked.' }),
});

export const buildReportSchema = z
  .strictObject({
    build_id: z.string(),
    size_bytes: z.int().meta({ description: 'Space that its files take on the host.' }),
    fault: z
      .string()
      .optional()
      .meta({ description: 'What is wrong with it; not set if it is intact.' }),
    references: z
      .array(z.string())
      .meta({ description: 'What needs it: `sandbox ID`, `template ID` or `kept-boot ID`.' }),
  })
  .meta({ id: 'BuildReport' });

export type BuildReport = z.infer<typeof buildReportSchema>;

export const buildReportListSchema = z.strictObject({ builds: z.array(buildReportSchema) });

export const collectedBuildsSchema = z
  .strictObject({
    removed_build_ids: z.array(z.string()),
    freed_bytes: z.int(),
  })
  .meta({ id: 'CollectedBuilds' });

export type CollectedBuilds = z.infer<typeof collectedBuildsSchema>;
