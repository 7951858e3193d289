/** The types of templates: an image of the platform, or a snapshot of a sandbox. */
export const TEMPLATE_TYPES = ['base', 'snapshot'] as const;

export type TemplateType = (typeof TEMPLATE_TYPES)[number];
